"""ModelStreamInfer: each message of the caller's stream goes to the model that it names, the answers come as they are.

A message that fails is answered by an error message, and the stream goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial

import structlog
from google.rpc import status_pb2

from gateway.addressing import STREAM_INFER
from gateway.attempts import Dispatch
from gateway.infer_request import parsed
from gateway.lane import FINAL, Lane, failed
from gateway.resume.oip_sequence import SequenceInfer
from gateway.routes import Routes
from gateway.settings import StreamSettings
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.errors import TriviumError, outcome
from services.kit.sequences import Step
from services.kit.transport.method import Method, raw


class StreamInfer:
    """The method, for a server's table."""

    def __init__(self, routes: Routes, dispatch: Dispatch, sequences: SequenceInfer, settings: StreamSettings) -> None:
        self._routes, self._dispatch, self._sequences, self._settings = routes, dispatch, sequences, settings

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {STREAM_INFER: raw(STREAM_INFER, self.stream, request_streaming=True, response_streaming=True)}

    async def stream(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The answers of all models to the requests, for each model in the order in which its instance gives them."""
        call.stage = "forward"
        splitter = Splitter(self._routes, self._dispatch, self._sequences, self._settings, call)
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

    The steps of sequences go on by themselves, each sequence in order.
    """

    def __init__(
        self, routes: Routes, dispatch: Dispatch, sequences: SequenceInfer, settings: StreamSettings, call: Call
    ) -> None:
        self._routes, self._dispatch, self._settings, self._call = routes, dispatch, settings, call
        self._sequences = sequences
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._window = asyncio.Semaphore(settings.window)  # of the lanes
        self._steps = asyncio.Semaphore(settings.window)  # those of sequences may wait long for their bundle
        # What goes to the caller; an exception ends the stream with it, None ends it well.
        self.answers: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(settings.window)

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        """Reads to the end, and waits for the last answer."""
        end: Exception | None = None
        try:
            async with asyncio.TaskGroup() as running:
                async for data in requests:
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
            request = parsed(data)  # all of it: a broken one would end the stream to the instance for all others on it
            request_id = request.id
            step = self._sequences.step(request)
            if step is not None:
                await self._steps.acquire()
                running.create_task(self._advance(request, step), name=f"step of {request.model_name}")
                return
            lane = self._lane(request.model_name, request.model_version, running)
        except TriviumError as error:
            await self.answers.put(failed(error, request_id))
            return
        await self._window.acquire()
        lane.submit(data, request_id)

    async def _advance(self, request: oip.ModelInferRequest, step: Step) -> None:
        """Answers a step of a sequence."""
        own = Call(STREAM_INFER, self._call.deadline, self._call.metadata)
        response = await outcome(self._sequences.advance(request, step, own), lambda: {"stage": own.stage})
        if isinstance(response, status_pb2.Status):
            answer = oip.ModelStreamInferResponse(error_message=response.message)
            answer.infer_response.id = request.id
        else:
            response.parameters[FINAL].bool_param = True
            answer = oip.ModelStreamInferResponse(infer_response=response)
        await self.answers.put(answer.SerializeToString())
        self._steps.release()

    def _lane(self, model: str, version: str, running: asyncio.TaskGroup) -> Lane:
        lane = self._lanes.get((model, version))
        if lane is None:
            self._routes.named(model, version)  # an unknown one gets no lane: callers could name them without end
            route = partial(self._routes.named, model, version)
            lane = Lane(route, self._dispatch, self._call, self._settings.idle_s, self.answers, self._window.release)
            self._lanes[model, version] = lane
            running.create_task(lane.run(), name=f"lane {model}")
        return lane


def _leaves(group: "BaseExceptionGroup[TriviumError]") -> list[TriviumError]:
    found: list[TriviumError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
