"""GrpcServer: one listening port; parses, runs the hooks around each handler and writes its status.

Handlers are registered without serializers, so that bytes that are no message reach the hooks like any other failure.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.rpc import status_pb2

from services.kit import address
from services.kit.background import told_to_end
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import CallerLeft, DeadlineExpired, StartupError
from services.kit.hooks.admission import MAX_PROBES
from services.kit.hooks.base import Hook
from services.kit.settings import setting
from services.kit.transport.method import Method

# A status with details as they travel beside grpc-status and grpc-message.
DETAILS_KEY = "grpc-status-details-bin"
STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

Lookup = Callable[[str], Method]
if TYPE_CHECKING:  # generic in the stubs only
    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = grpc.RpcMethodHandler[bytes, bytes]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a caller may ask of the transport."""

    max_message_bytes: int = setting(64 * 1024 * 1024, low=1024, high=2**31 - 1)
    unary_timeout_s: float = setting(60.0, low=0.001)  # for a unary call that brings no deadline
    stream_idle_s: float = setting(300.0, low=0.001)  # longest time in which nothing passes on a stream
    max_calls: int = setting(2048, low=1)  # in flight; the next one is refused with QUEUE_FULL
    max_streams: int = setting(16384, low=1)  # live streams (Track) besides them, most of which are silent


class GrpcServer:
    """A gRPC server on one port. `start` binds and serves, `stop` ends it."""

    def __init__(self, lookup: Lookup, hooks: Sequence[Hook], limits: ServerLimits) -> None:
        self._lookup, self._hooks, self._limits = lookup, hooks, limits
        self._server = grpc.aio.server(options=_options(limits))
        self._server.add_generic_rpc_handlers((_Handlers(self._handler),))
        self._cache: dict[str, tuple[Method, Handler]] = {}
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listens on host:port; port 0 takes a free one, named by `self.port` afterwards.

        Raises:
            StartupError: the port is taken or the host is none of this machine's.
        """
        listened = address.join(host, port)
        try:
            self.port = self._server.add_insecure_port(listened)
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on {listened}", hint="stop what listens there, or set another HOST or GRPC_PORT"
            ) from error
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls at once and cuts those off that have not ended after `grace_s` seconds."""
        await self._server.stop(grace_s)

    def _handler(self, path: str) -> "Handler":
        method = self._lookup(path)
        known, handler = self._cache.get(path, (None, None))
        if handler is None or known is not method:
            handler = self._new_handler(method)
            if method.path == path:  # not for the paths that callers make up: there is no end of them
                self._cache[path] = (method, handler)
        return handler

    def _new_handler(self, method: Method) -> "Handler":
        runner = _Runner(method, self._hooks, self._limits)
        if method.request_streaming:
            return (
                grpc.stream_stream_rpc_method_handler(runner.stream_stream)
                if method.response_streaming
                else grpc.stream_unary_rpc_method_handler(runner.stream_unary)
            )
        return (
            grpc.unary_stream_rpc_method_handler(runner.unary_stream)
            if method.response_streaming
            else grpc.unary_unary_rpc_method_handler(runner.unary_unary)
        )


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, find: "Callable[[str], Handler]") -> None:
        self._find = find

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler":
        return self._find(handler_call_details.method)


class _Runner:
    """Runs one method: the call, its hooks, its deadline, its status."""

    __slots__ = ("_hooks", "_limits", "method")

    def __init__(self, method: Method, hooks: Sequence[Hook], limits: ServerLimits) -> None:
        self.method, self._hooks, self._limits = method, hooks, limits

    async def unary_unary(self, data: bytes, context: "Context") -> bytes:
        call = self._call(context, self._limits.unary_timeout_s)
        return cast(bytes, await self._run(call, context, self._unary_work(data, call)))

    async def stream_unary(self, messages: AsyncIterator[bytes], context: "Context") -> bytes:
        call = self._call(context, None)
        work = self._unary_work(self._requests(messages, _Activity(self._limits.stream_idle_s)), call, parsed=True)
        return cast(bytes, await self._run(call, context, work))

    async def unary_stream(self, data: bytes, context: "Context") -> None:
        call = self._call(context, None)
        await self._run(call, context, self._stream_work(data, call, context, None))

    async def stream_stream(self, messages: AsyncIterator[bytes], context: "Context") -> None:
        call = self._call(context, None)
        activity = _Activity(self._limits.stream_idle_s)
        requests = self._requests(messages, activity)
        await self._run(call, context, self._stream_work(requests, call, context, activity))

    def _call(self, context: "Context", default_timeout_s: float | None) -> Call:
        remaining_s = context.time_remaining()
        timeout_s = default_timeout_s if remaining_s is None else remaining_s
        return Call(self.method.path, Deadline.after(timeout_s), tuple(context.invocation_metadata() or ()))

    async def _unary_work(self, request: Any, call: Call, *, parsed: bool = False) -> bytes:
        request = request if parsed else self.method.parse(request)
        return self.method.serialize(await self.method.handler(request, call))

    async def _stream_work(self, request: Any, call: Call, context: "Context", activity: "_Activity | None") -> None:
        request = request if activity else self.method.parse(request)
        async with contextlib.aclosing(self.method.handler(request, call)) as responses:
            async for response in responses:
                await _send_initial(call, context)
                await self._write(self.method.serialize(response), context)
                if activity:
                    activity.answered()

    async def _write(self, data: bytes, context: "Context") -> None:
        """One answer; ends the call of a caller that reads none for too long."""
        idle_s = self._limits.stream_idle_s
        try:
            async with asyncio.timeout(idle_s):
                await context.write(data)
        except TimeoutError:
            raise DeadlineExpired(f"no answer was read for {idle_s:g} s", limit=f"{idle_s:g}") from None

    async def _requests(self, messages: AsyncIterator[bytes], activity: "_Activity") -> AsyncIterator[Any]:
        """The caller's messages, parsed; ends the call when nothing passes either way for too long."""
        while True:
            try:
                async with asyncio.timeout(self._limits.stream_idle_s) as activity.limit:
                    data = await anext(messages)
            except StopAsyncIteration:
                return
            except TimeoutError:
                idle_s = self._limits.stream_idle_s
                raise DeadlineExpired(f"no message passed for {idle_s:g} s", limit=f"{idle_s:g}") from None
            finally:
                activity.limit = None
            yield self.method.parse(data)

    async def _run(self, call: Call, context: "Context", work: Any) -> Any:
        """The hooks around `work`, then the call's status and trailers."""
        started, result = 0, None
        error: BaseException | None = None
        try:
            for hook in self._hooks:
                hook.start(call)
                started += 1
            async with asyncio.timeout_at(None if call.deadline.at == float("inf") else call.deadline.at):
                result = await work
        except asyncio.CancelledError as cancelled:
            if not told_to_end():  # something that the handler waited for was cancelled: a fault of ours
                error = cancelled
            else:
                # The transport cancels the handler when the caller has left and when the caller's deadline passes.
                error = _expired() if call.deadline.expired() else CallerLeft("the caller left")
                self._end(call, error, started)
                raise
        except TimeoutError as timeout:
            error = _expired() if call.deadline.expired() else timeout
        except Exception as failure:
            error = failure
        finally:
            work.close()  # nothing to do but for a call that was refused before its work began
        self._end(call, error, started)
        if call.status is not None:
            await _abort(context, call.status, call.trailers)
        await _send_initial(call, context)
        if call.trailers:
            context.set_trailing_metadata(tuple(call.trailers))
        return result

    def _end(self, call: Call, error: BaseException | None, started: int) -> None:
        for hook in reversed(self._hooks[:started]):
            hook.end(call, error)


class _Activity:
    """How long a stream may be silent: the limit of the wait for its next message, put off by each answer."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self.limit: asyncio.Timeout | None = None  # of the wait that is under way

    def answered(self) -> None:
        """An answer went out."""
        if self.limit is not None and not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time() + self._idle_s)


def _expired() -> DeadlineExpired:
    return DeadlineExpired("the deadline passed while the call was queued or running")


async def _send_initial(call: Call, context: "Context") -> None:
    """Initial metadata goes out once, before the first message; without any the transport sends its own."""
    if call.initial:
        pairs, call.initial = tuple(call.initial), []
        await context.send_initial_metadata(pairs)


async def _abort(context: "Context", status: status_pb2.Status, trailers: Sequence[tuple[str, str | bytes]]) -> None:
    metadata = [pair for pair in trailers if pair[0] != DETAILS_KEY]
    if status.details:
        metadata.append((DETAILS_KEY, status.SerializeToString()))
    code = STATUS_CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    with contextlib.suppress(grpc.aio.InternalError):  # the caller left before it read so far
        await context.abort(code, status.message, tuple(metadata))


def _options(limits: ServerLimits) -> list[tuple[str, int]]:
    calls = limits.max_calls + limits.max_streams + MAX_PROBES
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # Of one connection; further ones wait.
        ("grpc.max_concurrent_streams", calls),
        # gRPC Core ends calls that wait to be accepted, with neither reason nor details, at random from 1000 on: a
        # burst is for admission to refuse.
        ("grpc.server.max_pending_requests", calls),
        ("grpc.server.max_pending_requests_hard_limit", 2 * calls),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.absolute_max_metadata_size", 32 * 1024),
        ("grpc.so_reuseport", 0),  # a busy port is an error, not a second server on it
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),  # every 10 s are welcome, however late one is
    ]
