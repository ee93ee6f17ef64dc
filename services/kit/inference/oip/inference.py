"""Inference: requests of the Open Inference Protocol become a model's answers, one for each or several."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from google.rpc import status_pb2

from inference import grpc_service_pb2 as pb
from services.kit import open_inference
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import DeadlineExpired, InvalidField, ModelNotFound, TriviumError, outcome
from services.kit.inference import tensors
from services.kit.inference.bundle import Array
from services.kit.inference.interleaved import interleaved
from services.kit.inference.job import Output
from services.kit.inference.model import Model
from services.kit.inference.models import Models
from services.kit.inference.oip import parameters, responses

AnyModel = Model[Any]
Parameters = Mapping[str, pb.InferParameter]
# What a request's tensors and parameters give, and the response parameters that are texts.
Infer = Callable[[AnyModel, Mapping[str, Array], Parameters, Call], Awaitable[tuple[Output, Mapping[str, str]]]]
# Told of a request to a model that is refused before it is computed, and why; what it raises takes that one's place.
Refused = Callable[[AnyModel, Parameters, InvalidField], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One of several answers to a request."""

    output: Output
    texts: Mapping[str, str]  # response parameters
    final: bool


class Decoupled(Protocol):
    """What computes the answers of models whose requests may have several."""

    @property
    def parameters(self) -> Mapping[str, tuple[str, ...]]:
        """The request parameters that these models know besides, and the types that each may have."""

    def answers(
        self, model: AnyModel, inputs: Mapping[str, Array], given: Parameters, call: Call
    ) -> AsyncGenerator[Answer, None]:
        """The answers as they come; the last one is final."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request that was understood."""

    model: AnyModel
    wanted: dict[str, int | None]
    inputs: dict[str, Array]
    timeout_s: float | None


MAX_ID = 256  # bytes
STREAM_WINDOW = 64  # requests of one stream in work at once


async def through_batcher(
    model: AnyModel, inputs: Mapping[str, Array], parameters: Parameters, call: Call
) -> tuple[Output, Mapping[str, str]]:
    """The model's outputs for these inputs, computed together with other calls'."""
    return await model.batcher.submit(inputs, call.deadline), {}


class Inference:
    """For the loaded models.

    Args:
        models: the instance's.
        infer: what computes the outputs.
        decoupled: computes for the models whose requests may have several answers.
        refused: told of requests that never get to `infer`.
    """

    def __init__(
        self, models: Models[Any], infer: Infer, decoupled: Decoupled | None = None, refused: Refused | None = None
    ) -> None:
        self._models, self._infer, self._decoupled, self._refused = models, infer, decoupled, refused

    async def one(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """The model's outputs for the request's tensors."""
        try:
            prepared = self._prepared(request, call)
        except InvalidField as error:
            await self._refuse(request, error)
            raise
        call.stage = "queue"
        output, texts = await self._in_time(prepared, request.parameters, call)
        prepared.model.report(output, call)
        return _response(request, prepared, output, texts, call)

    async def stream(
        self, requests: AsyncIterator[pb.ModelInferRequest], call: Call
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """An answer to each request, in their order; a failure is an answer with an error_message.

        The answers to a request that may have several come as they are made, between those to other requests. To a
        caller that has asked for it (`ENDS_WITH_STATUS`) the first failure is the end of the stream.
        """
        ends = open_inference.ends_with_status(call.metadata)

        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            own = Call(call.method, call.deadline, call.metadata)
            response = await self._stream_answer(request, own, ends=ends)
            for stage, seconds in own.stages.items():
                call.stages[stage] = call.stages.get(stage, 0.0) + seconds
            return response

        def several(request: pb.ModelInferRequest) -> AsyncGenerator[pb.ModelStreamInferResponse, None] | None:
            if self._decoupled is None or not self._is_decoupled(request):
                return None
            own = Call(call.method, call.deadline, call.metadata)
            return self._several_answers(self._decoupled, request, own, ends=ends)

        call.stage = "stream"
        async with contextlib.aclosing(interleaved(requests, answer, several, STREAM_WINDOW)) as responses:
            async for response in responses:
                yield response

    def find(self, name: str, version: str) -> AnyModel:
        """The loaded model.

        Raises:
            ModelNotFound: there is none.
        """
        return self._models.get(name, open_inference.version(version))

    def _is_decoupled(self, request: pb.ModelInferRequest) -> bool:
        try:
            return self.find(request.model_name, request.model_version).manifest.decoupled
        except TriviumError:  # the answer says why
            return False

    def _prepared(self, request: pb.ModelInferRequest, call: Call) -> _Prepared:
        """The request's model, tensors and wishes.

        Raises:
            TriviumError: it cannot be understood.
        """
        with call.timed("decode"):
            model = self.find(request.model_name, request.model_version)
            _check_id(request.id)
            more = self._decoupled.parameters if self._decoupled is not None and model.manifest.decoupled else {}
            timeout_s = parameters.timeout_s(request.parameters, more)
            wanted = responses.requested(request, model.manifest)
            interface = tensors.Interface(model.name, model.manifest.inputs, model.max_batch)
            return _Prepared(model, wanted, tensors.decode(request, interface), timeout_s)

    async def _refuse(self, request: pb.ModelInferRequest, error: InvalidField) -> None:
        if self._refused is None:
            return
        with contextlib.suppress(ModelNotFound):
            await self._refused(self.find(request.model_name, request.model_version), request.parameters, error)

    async def _several_answers(
        self, decoupled: Decoupled, request: pb.ModelInferRequest, call: Call, *, ends: bool
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """The answers to one request; a failure is the last one, or raised where the stream `ends` with it."""
        try:
            prepared = self._prepared(request, call)
            if prepared.timeout_s is not None:
                call.deadline = _sooner(call.deadline, prepared.timeout_s)
            call.stage = "queue"
            answers = decoupled.answers(prepared.model, prepared.inputs, request.parameters, call)
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    response = _response(request, prepared, answer.output, answer.texts, call)
                    response.parameters["triton_final_response"].bool_param = answer.final
                    yield pb.ModelStreamInferResponse(infer_response=response)
        except Exception as error:
            if ends:
                raise
            yield _failed(request, await outcome(_raising(error), lambda: {"stage": call.stage}))

    async def _in_time(self, prepared: _Prepared, given: Parameters, call: Call) -> tuple[Output, Mapping[str, str]]:
        """The outputs, within the call's deadline and, where the request has one, its own timeout."""
        timeout_s = prepared.timeout_s
        if timeout_s is None:
            return await self._infer(prepared.model, prepared.inputs, given, call)
        call.deadline = _sooner(call.deadline, timeout_s)
        try:
            async with asyncio.timeout_at(call.deadline.at):
                return await self._infer(prepared.model, prepared.inputs, given, call)
        except TimeoutError:
            raise DeadlineExpired(f"the request's timeout of {timeout_s * 1e6:.0f} us has passed") from None

    async def _stream_answer(
        self, request: pb.ModelInferRequest, call: Call, *, ends: bool
    ) -> pb.ModelStreamInferResponse:
        answer = self.one(request, call)
        result = await (answer if ends else outcome(answer, lambda: {"stage": call.stage}))
        if isinstance(result, status_pb2.Status):
            return _failed(request, result)
        result.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=result)


def _response(
    request: pb.ModelInferRequest, prepared: _Prepared, output: Output, texts: Mapping[str, str], call: Call
) -> pb.ModelInferResponse:
    with call.timed("encode"):
        response = responses.response(request, prepared.model, output, prepared.wanted)
        for name, text in texts.items():
            response.parameters[name].string_param = text
        return response


def _failed(request: pb.ModelInferRequest, status: status_pb2.Status) -> pb.ModelStreamInferResponse:
    failed = pb.ModelInferResponse(id=request.id)
    return pb.ModelStreamInferResponse(error_message=status.message, infer_response=failed)


async def _raising(error: Exception) -> status_pb2.Status:
    raise error


def _sooner(deadline: Deadline, timeout_s: float) -> Deadline:
    return min(deadline, Deadline.after(timeout_s), key=lambda one: one.at)


def _check_id(request_id: str) -> None:
    length = len(request_id.encode())
    if length > MAX_ID:
        raise InvalidField(
            f"the request's id has {length} bytes and the limit is {MAX_ID}",
            field="id",
            limit=str(MAX_ID),
            value=str(length),
        )
