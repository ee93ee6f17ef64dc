"""Stream: one Track call, from the caller's messages to its answers, over as many instances as it takes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from google.rpc import code_pb2

from gateway.attempts import Dispatch
from gateway.endpoint import Endpoint
from gateway.failures import found
from gateway.forwarder import forwarded
from gateway.resume.continuation import Continuation
from gateway.resume.journal import Journal
from gateway.resume.verdict import verdict
from gateway.routes import Route, Routes
from gateway.settings import ResumeSettings
from services.kit.call import Call
from services.kit.discovery.client import consul_service
from services.kit.errors import Draining, MalformedRequest
from services.kit.transport.upstream import CallFailed

SERVICE = consul_service("trivium.sequence.v1")


@dataclass(eq=False, slots=True)
class Attempt:
    """The stream at one instance."""

    endpoint: Endpoint
    answers: AsyncGenerator[bytes, None] = field(init=False)
    trailers: list[tuple[str, str | bytes]] = field(default_factory=list)
    over: bool = False


class Stream:
    """Reads the caller in a task of its own; whoever asks for the next answer drives the rest.

    So a caller that reads slowly holds back its own stream: the instance's answers wait in the transport, the inputs
    here, and at their limit the caller is not read any more.
    """

    def __init__(
        self, routes: Routes, dispatch: Dispatch, settings: ResumeSettings, requests: AsyncIterator[bytes], call: Call
    ) -> None:
        self._routes, self._call, self._max_bytes = routes, call, settings.max_bytes
        self._metadata = forwarded(call.metadata)
        self._journal = Journal()
        self._tries = Continuation(
            routes, dispatch, settings, SERVICE, self._route, self._model, call, live=True, progress=self._progress
        )
        self._wake, self._room = asyncio.Event(), asyncio.Event()  # there is something to send; to take
        self._attempt: Attempt | None = None  # under way
        self._wait: asyncio.Timeout | None = None  # for the next answer
        self._end: Exception | None = None  # what the stream ends with at once
        self._last: MalformedRequest | None = None  # what it ends with after the answers
        self._leaving: asyncio.TimerHandle | None = None
        self._reader = asyncio.create_task(self._read(requests), name="read stream")

    @property
    def step(self) -> int | None:
        """The last step that the caller got; None if only the state of its own says where it was."""
        return self._journal.step

    async def next(self) -> bytes | None:
        """The next answer for the caller; None after the last one.

        Raises:
            Exception: the stream ends with it.
        """
        if self._leaving is not None and not self._journal.asked and not self._journal.closed:
            self._interrupt(_draining())
        if self._end is not None:
            raise self._end
        try:
            async with asyncio.timeout(None) as self._wait:
                return await self._next()
        except TimeoutError:
            if self._end is None:
                raise
            raise self._end from None
        finally:
            self._wait = None

    def leave(self, until: float) -> None:
        """The gateway leaves: nothing more is read, and the answers that are in work are waited for.

        Args:
            until: instant on the loop's clock.
        """
        self._reader.cancel()
        if not self._journal.asked and not self._journal.closed:
            self._interrupt(_draining())
        elif self._leaving is None:
            self._leaving = asyncio.get_running_loop().call_at(until, lambda: self._interrupt(_draining()))

    async def close(self) -> None:
        """Nobody waits any more."""
        if self._leaving is not None:
            self._leaving.cancel()
        self._reader.cancel()
        attempt, self._attempt = self._attempt, None
        self._tries.left(attempt.endpoint if attempt else None)
        if attempt is not None:
            await self._stop(attempt)
        await asyncio.gather(self._reader, return_exceptions=True)

    def _interrupt(self, end: Exception) -> None:
        """Ends the stream now."""
        if self._end is None:
            self._end = end
            if self._wait is not None:
                self._wait.reschedule(asyncio.get_running_loop().time())

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        journal = self._journal
        try:
            async for data in requests:
                if not journal.asked:
                    self._tries.renew()
                journal.take(data)
                self._wake.set()
                while journal.asked and journal.size >= self._max_bytes:
                    self._room.clear()
                    await self._room.wait()
        except MalformedRequest as error:
            self._last = error
        except Exception as error:  # the caller was silent for too long, or cannot be read
            self._interrupt(error)
        journal.closed = True
        self._wake.set()

    async def _next(self) -> bytes | None:
        while True:
            attempt = self._attempt or await self._open()
            if attempt is None:
                return None
            try:
                data = await anext(attempt.answers, None)
                if data is None:
                    await self._ended(attempt)
                    return None
                answer = self._journal.answered(data, attempt.endpoint)
            except CallFailed as failure:
                if await self._failed(attempt, failure):
                    continue
                return None
            self._room.set()
            if self._journal.pin is not None:
                self._tries.answered(attempt.endpoint, self._journal.pin)
            if answer is not None:
                self._tries.renew()
                return answer

    def _progress(self) -> dict[str, int | None]:
        return {"step": self._journal.step}

    def _model(self) -> str:
        return self._journal.model

    def _route(self) -> Route:
        return self._routes.typed(SERVICE, self._journal.model)

    async def _open(self) -> Attempt | None:
        """A new attempt, as soon as one is needed; None if the caller has every answer."""
        journal = self._journal
        while journal.idle:
            self._wake.clear()
            await self._wake.wait()
        if journal.over:
            self._tries.left(None)
            self._check_end()
            return None
        endpoint = await self._tries.pick()
        self._call.stage = "stream"
        journal.begin()
        attempt = self._attempt = Attempt(endpoint)
        initial = None if journal.delivered else self._call.initial
        attempt.answers = endpoint.upstream.stream(
            self._call.method, self._feed(attempt), self._metadata, self._call.deadline, attempt.trailers, initial
        )
        return attempt

    async def _feed(self, attempt: Attempt) -> AsyncIterator[bytes]:
        """The messages of one attempt. Ends with the caller's last one, or when the attempt is over."""
        while not attempt.over:
            message = self._journal.next()
            if message is not None:
                self._room.set()
                yield message
            elif self._journal.closed:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _ended(self, attempt: Attempt) -> None:
        """The instance has ended the stream well.

        Raises:
            CallFailed: before the caller did.
        """
        if not self._journal.complete:
            raise found(code_pb2.UNAVAILABLE, f"{attempt.endpoint.id} ended the stream before its caller did")
        await self._stop(attempt)
        self._attempt = None
        self._tries.succeeded(attempt.endpoint, attempt.trailers)
        self._check_end()

    async def _failed(self, attempt: Attempt, failure: CallFailed) -> bool:
        """Whether the stream goes on; False if its caller has every answer."""
        await self._stop(attempt)
        self._attempt = None
        if self._journal.over and verdict(failure) != "final":
            self._tries.enough(attempt.endpoint, failure)
            self._check_end()
            return False
        self._tries.failed(attempt.endpoint, failure, asked=self._journal.asked)
        return True

    async def _stop(self, attempt: Attempt) -> None:
        """Ends all that iterates for the attempt."""
        attempt.over = True
        self._wake.set()  # the transport may have left the feed waiting
        await attempt.answers.aclose()

    def _check_end(self) -> None:
        """Raises what the caller's last message was, if it was none."""
        if self._last is not None:
            raise self._last


def _draining() -> Draining:
    return Draining("this gateway is leaving: the stream goes on through another one from this step")
