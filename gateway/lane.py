"""Lane: the requests for one model within a ModelStreamInfer call, in order, on one instance at a time."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import takewhile

from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from gateway import balancer
from gateway.addressing import STREAM_INFER
from gateway.attempts import Dispatch
from gateway.endpoint import Endpoint
from gateway.failures import explained, found
from gateway.forwarder import forwarded
from gateway.infer_request import has_sequence
from gateway.routes import Route
from gateway.settings import StreamSettings
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.errors import TriviumError, to_status
from services.kit.transport.upstream import CallFailed

FINAL = "triton_final_response"


@dataclass(eq=False, slots=True)
class Request:
    """One message of the caller and how far it has got."""

    data: bytes
    id: str
    attempt: object = None  # the stream to an instance that it was sent on
    attempts: int = 0
    overloads: int = 0
    begun: bool = False  # some of its answers have gone to the caller


class Lane:
    """Sends requests on over one stream to an instance, opened when there is something to send.

    A stream that breaks is opened again on another instance: requests without any answer go there if the rules for
    retries allow it, the others get an error of their own.

    Args:
        route: finds the endpoints of the model.
        settings: how many requests the instance may have, and how long it may have none.
        answer: passes an answer to the caller; waits while the caller is slow.
        done: called with the request's bytes after the last answer to it.
    """

    def __init__(
        self,
        route: Callable[[], Route],
        dispatch: Dispatch,
        call: Call,
        settings: StreamSettings,
        answer: "asyncio.Queue[bytes | Exception | None]",
        done: Callable[[bytes], None],
    ) -> None:
        self._route, self._dispatch, self._call = route, dispatch, call
        self._window, self._idle_s = settings.window, settings.idle_s
        self._answers, self._done = answer, done
        self._metadata = forwarded(call.metadata)
        self._pending: deque[Request] = deque()
        self._tried: list[Endpoint] = []  # since the last answer
        self._wake = asyncio.Event()
        self._attempt: object = None
        self._closed = False

    def submit(self, data: bytes, request_id: str) -> None:
        """One more request."""
        self._pending.append(Request(data, request_id))
        self._dispatch.retries.budget.calls += 1
        self._wake.set()

    def close(self) -> None:
        """There are no more requests; `run` ends after the last answer."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """Serves until it is closed."""
        while not (self._closed and not self._pending):
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                endpoints = balancer.candidates(self._route().endpoints, self._tried)
            except TriviumError as error:
                await self._fail(list(self._pending), error)
                continue
            if not endpoints:
                self._tried.clear()
                continue
            endpoint = balancer.pick(endpoints, self._dispatch.rng)
            failure = await self._serve(endpoint)
            if failure is not None:
                await self._failed(endpoint, failure)

    async def _serve(self, endpoint: Endpoint) -> CallFailed | None:
        """One stream, until it is idle, its instance leaves or it breaks; the failure in the last case."""
        attempt = self._attempt = object()
        endpoint.in_flight += 1
        answers = endpoint.upstream.stream(
            STREAM_INFER, self._feed(attempt, endpoint), self._metadata, self._call.deadline, []
        )
        try:
            async with aclosing(answers):
                async for data in answers:
                    await self._answered(endpoint, data)
        except CallFailed as failure:
            return failure
        except (DecodeError, UnicodeDecodeError):
            return found(code_pb2.INTERNAL, f"an answer of {endpoint.id} is no ModelStreamInferResponse")
        finally:
            endpoint.in_flight -= 1
        if not self._sent():
            return None
        return found(code_pb2.UNAVAILABLE, "the stream ended before every request was answered")

    async def _feed(self, attempt: object, endpoint: Endpoint) -> AsyncIterator[bytes]:
        """The requests for one stream. Ends, and the instance may then end the stream, when nothing is to be sent."""
        while attempt is self._attempt and endpoint.accepting:
            if (request := self._unsent()) is not None:
                request.attempt = attempt
                request.attempts += 1
                yield request.data
                continue
            if self._closed:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(None if self._pending else self._idle_s):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _answered(self, endpoint: Endpoint, data: bytes) -> None:
        answer = oip.ModelStreamInferResponse.FromString(data)
        request_id, parameters = answer.infer_response.id, answer.infer_response.parameters
        sent = self._sent()
        await self._answers.put(data)
        if not sent:
            return
        answered = [one for one in sent if one.id == request_id] or sent[:1]
        last = bool(answer.error_message) or FINAL not in parameters or parameters[FINAL].bool_param
        if not last or any(request.begun for request in answered):
            for request in answered:  # which of those that share an id it is, nobody can tell
                request.begun = True
        self._tried.clear()
        if last:
            self._dispatch.outliers.succeeded(endpoint)
            self._dispatch.count(endpoint.service, code_pb2.OK)
            self._finish(answered[0])

    async def _failed(self, endpoint: Endpoint, failure: CallFailed) -> None:
        """Leaves pending what may go to another instance; the rest gets the failure."""
        self._dispatch.outliers.failed(endpoint, failure)
        self._dispatch.count(endpoint.service, failure.status.code)
        self._tried.append(endpoint)
        sent = self._sent() or list(self._pending)[:1]  # else one that takes nothing would be tried for ever
        lost = [request for request in sent if not self._again(request, failure)]
        if len(lost) < len(self._pending):
            self._dispatch.metrics.stream_restarts.inc()
        await self._fail(lost, explained(failure, endpoint))

    def _again(self, request: Request, failure: CallFailed) -> bool:
        if request.begun:
            return False
        rule = self._dispatch.retries.allow(
            failure,
            self._call.deadline,
            attempts=request.attempts,
            overloads=request.overloads,
            safe=lambda: not has_sequence(request.data),
            alternative=self._alternative,
        )
        request.overloads += rule == "overloaded"
        return rule is not None

    def _alternative(self) -> bool:
        try:
            return bool(balancer.candidates(self._route().endpoints, self._tried))
        except TriviumError:
            return False

    def _sent(self) -> list[Request]:
        """The requests without their last answer on the stream of now: the oldest ones."""
        return list(takewhile(lambda request: request.attempt is self._attempt, self._pending))

    def _unsent(self) -> Request | None:
        """The next one for the stream of now, if the instance has room for it."""
        sent = len(self._sent())
        return self._pending[sent] if sent < min(self._window, len(self._pending)) else None

    async def _fail(self, requests: list[Request], error: Exception) -> None:
        for request in requests:
            self._finish(request)
            await self._answers.put(failed(error, request.id))

    def _finish(self, request: Request) -> None:
        self._pending.remove(request)
        self._done(request.data)
        self._wake.set()


def failed(error: Exception, request_id: str) -> bytes:
    """The answer to a request that failed: an error message beside the request's id, as Triton gives it."""
    answer = oip.ModelStreamInferResponse(error_message=to_status(error).message)
    answer.infer_response.id = request_id
    return answer.SerializeToString()
