"""SequenceInfer: sequences of the Open Inference Protocol, whose state is kept here and computed anywhere.

To a step of a sequence the gateway adds the state that the answer to the step before brought, in the parameter
`trivium_state`; so any instance of the same bundle can compute it, and twice is as good as once.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from gateway import addressing, versions
from gateway.attempts import Dispatch
from gateway.endpoint import Endpoint
from gateway.failures import found
from gateway.forwarder import forwarded
from gateway.methods import ANY, MODEL_INFER
from gateway.resume.continuation import Continuation
from gateway.resume.kept import Kept, KeptSequences
from gateway.routes import Pin, Routes
from gateway.settings import ResumeSettings
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.errors import NoInstance, NotReady, SequenceNotStarted
from services.kit.model_name import version_number
from services.kit.sequences import STATE, Step, in_sequence, step_of
from services.kit.transport.method import Method, raw
from services.kit.transport.upstream import CallFailed
from services.kit.wire import parsed

FREE: AbstractAsyncContextManager[object] = nullcontext()


class SequenceInfer:
    """ModelInfer, for a server's table, and the steps of sequences within ModelStreamInfer.

    Args:
        sequences: the live ones.
        forward: answers requests that belong to no sequence kept here.
    """

    def __init__(
        self,
        routes: Routes,
        dispatch: Dispatch,
        settings: ResumeSettings,
        sequences: KeptSequences,
        forward: Callable[[bytes, Call], Awaitable[bytes]],
    ) -> None:
        self._routes, self._dispatch, self._settings = routes, dispatch, settings
        self._sequences, self._forward = sequences, forward
        dispatch.metrics.live_sequences.set_function(lambda: len(sequences))

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {MODEL_INFER: raw(MODEL_INFER, self.infer, request_streaming=False, response_streaming=False)}

    async def infer(self, data: bytes, call: Call) -> bytes:
        """The answer to one request, in a sequence or not. Models without state cost no parsing."""
        name, _ = addressing.read(addressing.VERSIONED, data)
        if name in self._routes.stateful:
            request = parsed(oip.ModelInferRequest, data)
            step = self.step(request)
            if step is not None:
                return (await self.advance(request, step, call)).SerializeToString()
        return await self._forward(data, call)

    def step(self, request: oip.ModelInferRequest) -> Step | None:
        """The request's place in a sequence that is kept here; None if it is to be forwarded as it is.

        Raises:
            TriviumError: there is no such model or version, or the id is no sequence's.
        """
        if request.model_name not in self._routes.stateful or not in_sequence(request.parameters):
            return None
        try:
            stateful = self._routes.named(request.model_name, request.model_version).stateful
        except (NoInstance, NotReady):
            stateful = True  # a live sequence waits for an instance
        return step_of(request.parameters) if stateful else None

    async def advance(
        self, request: oip.ModelInferRequest, step: Step, call: Call, place: AbstractAsyncContextManager[object] = FREE
    ) -> oip.ModelInferResponse:
        """The answer to one step, after those to all steps of the sequence that came before.

        A step that fails leaves the sequence as it was.

        Args:
            place: taken when it is the step's turn, until its answer.

        Raises:
            StateMismatch, SequenceNotStarted, Overloaded: the step does not fit to the sequences that are live.
            NoInstance: no instance of the sequence's bundle was found in time.
            CallFailed: an instance's own refusal.
        """
        call.stage = "sequence"
        model, named = request.model_name, versions.parse(request.model_name, request.model_version).version or 0
        version = self._sequences.version(model, named, self._newest(model), step)
        async with self._sequences.turn(model, version, step) as live:
            if named and live.value is not None and live.value.pin.version != named:
                raise SequenceNotStarted(f"sequence {step.id} is one of {live.value.pin}", model=f"{model}:{named}")
            async with place:
                response, live.value = await self._computed(request, live.value, call)
            return response

    def _newest(self, model: str) -> int:
        """The version that a request without one means now; 0 where that is not known."""
        try:
            return self._routes.named(model, "").version or 0
        except (NoInstance, NotReady):
            return 0

    async def _computed(
        self, request: oip.ModelInferRequest, kept: Kept | None, call: Call
    ) -> tuple[oip.ModelInferResponse, Kept]:
        """The answer without the state, and what is to be kept from now on."""
        route = partial(self._routes.named, request.model_name, request.model_version)
        pin, model = kept.pin if kept else None, request.model_name
        tries = Continuation(self._routes, self._dispatch, self._settings, ANY, route, lambda: model, call, pin)
        if kept is not None:
            request.model_version = str(kept.pin.version)
        request.parameters[STATE].string_param = kept.state if kept else ""
        data, metadata = request.SerializeToString(), forwarded(call.metadata)
        while True:
            endpoint = await tries.pick()
            try:
                reply = await endpoint.upstream.unary(MODEL_INFER, data, metadata, call.deadline)
                response, after = _answer(reply.message, pin, endpoint)
            except CallFailed as failure:
                tries.failed(endpoint, failure)
            except BaseException:
                tries.left(endpoint)
                raise
            else:
                tries.succeeded(endpoint, reply.trailers)
                call.initial.extend(reply.initial_metadata)
                return response, Kept(after.state, tries.answered(endpoint, after.pin))


def _answer(data: bytes, pin: Pin | None, endpoint: Endpoint) -> tuple[oip.ModelInferResponse, Kept]:
    """The answer without the state, and the state.

    Raises:
        CallFailed: it is no answer to a step.
    """
    try:
        response = oip.ModelInferResponse.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        raise found(code_pb2.INTERNAL, f"an answer of {endpoint.id} is no ModelInferResponse") from None
    version = version_number(response.model_version)
    if STATE not in response.parameters or version is None:
        raise found(code_pb2.INTERNAL, f"an answer of {endpoint.id} to a step of a sequence brings no state")
    state = response.parameters[STATE].string_param
    del response.parameters[STATE]
    return response, Kept(state, pin or Pin.of(endpoint, response.model_name, version))
