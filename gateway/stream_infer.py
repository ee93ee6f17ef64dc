"""ModelStreamInfer: each message of the caller's stream goes to the model that it names, the answers come as they are.

A message that fails is answered by an error message, and the stream goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import aclosing
from functools import partial

import structlog
from google.rpc import status_pb2

from gateway.addressing import STREAM_INFER
from gateway.attempts import Dispatch
from gateway.lane import FINAL, Lane, failed
from gateway.resume.oip_sequence import SequenceInfer
from gateway.resume.oip_text import TextInfer
from gateway.room import Room
from gateway.routes import Routes
from gateway.settings import StreamSettings
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.errors import TriviumError, UpstreamError, outcome
from services.kit.sequences import Step
from services.kit.transport.method import Method, raw
from services.kit.wire import parsed


class StreamInfer:
    """The method, for a server's table."""

    def __init__(
        self, routes: Routes, dispatch: Dispatch, sequences: SequenceInfer, texts: TextInfer, settings: StreamSettings
    ) -> None:
        self._routes, self._dispatch, self._settings = routes, dispatch, settings
        self._sequences, self._texts = sequences, texts

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {STREAM_INFER: raw(STREAM_INFER, self.stream, request_streaming=True, response_streaming=True)}

    async def stream(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The answers of all models to the requests, for each model in the order in which its instance gives them."""
        call.stage = "forward"
        splitter = Splitter(self._routes, self._dispatch, self._sequences, self._texts, self._settings, call)
        reading = asyncio.create_task(splitter.read(requests), name="split stream")
        try:
            while (answer := await splitter.answers.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


class Splitter:
    """Reads one caller's stream into a lane for each model that it names.

    The steps of sequences go on by themselves, each sequence in order, and so does every text. What is read and not
    answered is bounded by its size alone, for all models together: those that have much to do hold up no others before.
    """

    def __init__(
        self,
        routes: Routes,
        dispatch: Dispatch,
        sequences: SequenceInfer,
        texts: TextInfer,
        settings: StreamSettings,
        call: Call,
    ) -> None:
        self._routes, self._dispatch, self._settings, self._call = routes, dispatch, settings, call
        self._sequences, self._texts = sequences, texts
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._places: dict[str, asyncio.Semaphore] = {}  # by model: texts and steps of sequences at its instances
        self._room = Room(settings.max_bytes)
        self._in_order = asyncio.Lock()  # keeps the answers to steps in order, which a full queue does not
        # What goes to the caller; an exception ends the stream with it, None ends it well.
        self.answers: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(settings.window)

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        """Reads to the end, and waits for the last answer."""
        end: Exception | None = None
        try:
            async with asyncio.TaskGroup() as running:
                async for data in requests:
                    await self._room.take(data)
                    await self._submit(data, running)
                for lane in self._lanes.values():
                    lane.close()
        except* TriviumError as group:
            end = next(iter(_leaves(group)))
        except* Exception as group:
            structlog.get_logger().error("internal_error", method=STREAM_INFER, exc_info=group)
            end = TriviumError("internal error; the gateway's log has the details")
        await self.answers.put(end)

    async def _submit(self, data: bytes, running: asyncio.TaskGroup) -> None:
        request_id = ""
        try:
            # All of it: a broken one would end the stream to the instance for all others on it.
            request = parsed(oip.ModelInferRequest, data)
            request_id = request.id
            step = self._sequences.step(request)
            if step is not None:
                self._begin(running, data, self._advance(request, step))
            elif self._texts.writes(request):
                self._begin(running, data, self._write(request))
            else:
                self._lane(request.model_name, request.model_version, running).submit(data, request_id)
        except TriviumError as error:
            await self.answers.put(failed(error, request_id))
            self._room.give(data)

    def _begin(self, running: asyncio.TaskGroup, data: bytes, work: Coroutine[None, None, None]) -> None:
        """Answers a request in a task of its own."""
        task = running.create_task(work, name="request of a stream")
        task.add_done_callback(lambda _: self._room.give(data))

    async def _advance(self, request: oip.ModelInferRequest, step: Step) -> None:
        """Answers a step of a sequence."""
        own, place = self._own_call(), self._place(request.model_name)
        response = await outcome(self._sequences.advance(request, step, own, place), lambda: {"stage": own.stage})
        if isinstance(response, status_pb2.Status):
            answer = failed(UpstreamError(response), request.id)
        else:
            response.parameters[FINAL].bool_param = True
            answer = oip.ModelStreamInferResponse(infer_response=response).SerializeToString()
        async with self._in_order:
            await self.answers.put(answer)

    async def _write(self, request: oip.ModelInferRequest) -> None:
        """Answers a request for a text."""
        own, request_id = self._own_call(), request.id

        async def write() -> None:
            async with aclosing(self._texts.answers(request, own, self._place(request.model_name))) as answers:
                async for answer in answers:
                    await self.answers.put(answer)

        end = await outcome(write(), lambda: {"stage": own.stage})
        if isinstance(end, status_pb2.Status):
            await self.answers.put(failed(UpstreamError(end), request_id))

    def _own_call(self) -> Call:
        return Call(STREAM_INFER, self._call.deadline, self._call.metadata)

    def _place(self, model: str) -> asyncio.Semaphore:
        return self._places.setdefault(model, asyncio.Semaphore(self._settings.window))

    def _lane(self, model: str, version: str, running: asyncio.TaskGroup) -> Lane:
        lane = self._lanes.get((model, version))
        if lane is None:
            self._routes.named(model, version)  # an unknown one gets no lane: callers could name them without end
            route = partial(self._routes.named, model, version)
            lane = Lane(route, self._dispatch, self._call, self._settings, self.answers, self._room.give)
            self._lanes[model, version] = lane
            running.create_task(lane.run(), name=f"lane {model}")
        return lane


def _leaves(group: "BaseExceptionGroup[TriviumError]") -> list[TriviumError]:
    found: list[TriviumError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
