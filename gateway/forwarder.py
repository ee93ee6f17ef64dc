"""Forwarder: routes a call, picks an instance, sends the same bytes on and passes the answer back."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

from google.rpc import code_pb2

from gateway import addressing
from gateway.attempts import Attempts, Dispatch
from gateway.infer_request import has_sequence
from gateway.methods import ANY, MODEL_INFER, SHARED_PACKAGES, Methods, Rpc, package_of, undescribed
from gateway.routes import Routes
from gateway.source import Source
from services.kit.call import Call, Metadata
from services.kit.errors import NotReady, TriviumError, UnknownMethod
from services.kit.open_inference import ENDS_WITH_STATUS
from services.kit.transport.method import Method, raw
from services.kit.transport.upstream import CallFailed

# Ours towards the instance, or of one connection only: not passed on. All that begins with "grpc-" is the transport's.
HOP_BY_HOP = frozenset(
    {
        "connection", "content-type", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
        "upgrade", "user-agent", ENDS_WITH_STATUS[0],
    }
)  # fmt: skip


class Forwarder:
    """Makes a Method of each path that some instance may serve."""

    def __init__(self, methods: Methods, routes: Routes, dispatch: Dispatch) -> None:
        self._methods, self._routes, self._dispatch = methods, routes, dispatch
        self._cache: dict[str, tuple[Rpc, Method]] = {}

    def method(self, path: str) -> Method:
        """What answers the path: an instance, or a refusal that says what there is."""
        rpc = self._methods.find(path)
        if rpc is None:
            return self._undescribed(path)
        cached = self._cache.get(path)
        if cached is None or cached[0] is not rpc:
            cached = self._cache[path] = (rpc, self._forwarding(rpc))
        return cached[1]

    async def unary(self, rpc: Rpc, request: bytes, call: Call) -> bytes:
        """The instance's answer to one message."""
        attempts = self._attempts(rpc, request, call)
        metadata = forwarded(call.metadata)
        while True:
            endpoint = attempts.pick()
            try:
                reply = await endpoint.upstream.unary(rpc.path, request, metadata, call.deadline)
            except CallFailed as failure:
                attempts.failed(endpoint, failure)
            except BaseException:
                attempts.left(endpoint)
                raise
            else:
                attempts.succeeded(endpoint, reply.trailers)
                call.initial.extend(reply.initial_metadata)
                return reply.message

    async def stream(self, rpc: Rpc, requests: bytes | AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The instance's answers to one or many messages.

        Another instance can take over until the first answer, or the caller's second message, has passed.
        """
        source = Source(single(requests) if isinstance(requests, bytes) else requests)
        try:
            first = await source.first() if rpc.address is not None else None
            attempts = self._attempts(rpc, first or b"", call)
            metadata = forwarded(call.metadata)
            trailers: list[tuple[str, str | bytes]] = []
            while True:
                endpoint = attempts.pick()
                upstream = endpoint.upstream.stream(
                    rpc.path, source.attempt(), metadata, call.deadline, trailers, call.initial
                )
                try:
                    async with aclosing(upstream) as answers:
                        async for answer in answers:
                            source.answered = True
                            yield answer
                except CallFailed as failure:
                    if source.failure is not None and failure.status.code == code_pb2.CANCELLED:
                        attempts.left(endpoint)  # the transport cancels a call whose messages end in an error
                        raise source.failure from None
                    attempts.failed(endpoint, failure, final=source.answered or source.moved)
                except BaseException:
                    attempts.left(endpoint)
                    raise
                else:
                    attempts.succeeded(endpoint, trailers)
                    return
        finally:
            source.close()

    async def stream_unary(self, rpc: Rpc, requests: AsyncIterator[bytes], call: Call) -> bytes:
        """The instance's one answer to many messages."""
        answers = [answer async for answer in self.stream(rpc, requests, call)]
        if len(answers) != 1:
            raise TriviumError(f"{rpc.path} was answered with {len(answers)} messages instead of one")
        return answers[0]

    def _attempts(self, rpc: Rpc, request: bytes, call: Call) -> Attempts:
        call.stage = "route"
        if rpc.address is None:
            route = partial(self._routes.typed, rpc.service, "")
        else:
            model, version = addressing.read(rpc.address, request)
            if rpc.address.version:
                route = partial(self._routes.named, model, version)
            else:
                route = partial(self._routes.typed, rpc.service, model)
        return Attempts(self._dispatch, route, call, partial(_safe, rpc, request))

    def _forwarding(self, rpc: Rpc, path: str = "") -> Method:
        handler = self.unary
        if rpc.response_streaming:
            handler = self.stream  # type: ignore[assignment]
        elif rpc.request_streaming:
            handler = self.stream_unary  # type: ignore[assignment]
        return raw(
            path or rpc.path,
            partial(handler, rpc),
            request_streaming=rpc.request_streaming,
            response_streaming=rpc.response_streaming,
        )

    def _undescribed(self, path: str) -> Method:
        """Callers make such paths up: their metrics share one label.

        Of a package that every service has, an instance knows better than the gateway why a method is not offered.
        """
        rpc, shared = undescribed(path), package_of(path) in SHARED_PACKAGES and self._routes.ready()
        if shared or rpc.service in self._routes.services or (rpc.service and self._methods.services(rpc.service)):
            return self._forwarding(rpc, "undescribed")
        return raw("unknown", partial(self._refuse, path), request_streaming=True, response_streaming=True)

    def _refuse(self, path: str, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        if not self._routes.answered:
            raise NotReady("the gateway has not heard yet which services there are", method=path[:200])
        services = (ANY, *self._routes.services)
        there_is = sorted(name for service in services for name in self._methods.services(service))
        raise UnknownMethod(f"nothing here serves {path[:200]}; there is {', '.join(there_is)}", method=path[:200])


def forwarded(metadata: Metadata) -> Metadata:
    """The caller's metadata that an instance gets."""
    return tuple(pair for pair in metadata if pair[0] not in HOP_BY_HOP and not pair[0].startswith("grpc-"))


def _safe(rpc: Rpc, request: bytes) -> bool:
    return rpc.safe and not (rpc.path == MODEL_INFER and has_sequence(request))


async def single(request: bytes) -> AsyncIterator[bytes]:
    """The one message of a call whose caller does not stream."""
    yield request
