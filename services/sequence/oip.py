"""SequenceInfer: the Open Inference Protocol's requests to recurrent bundles, and their state between them."""

import base64
import binascii
from collections.abc import Mapping

from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.errors import InvalidField
from services.kit.inference.bundle import Array
from services.kit.inference.job import Output
from services.kit.inference.oip import through_batcher
from services.kit.sequences import STATE, Sequences, Step, in_sequence, step_of
from services.sequence import recurrent
from services.sequence.pipeline import Pipeline
from services.sequence.recurrent import SequenceModel
from services.sequence.state import StreamState, unpacked

FIELD = f"parameters.{STATE}"


class SequenceInfer:
    """Computes a request of the Open Inference Protocol.

    Args:
        sequences: those whose state this instance keeps.
        window_steps: of one run.
    """

    def __init__(self, sequences: Sequences[StreamState], window_steps: int) -> None:
        self._sequences, self._window_steps = sequences, window_steps

    async def __call__(
        self, model: SequenceModel, inputs: Mapping[str, Array], given: Mapping[str, oip.InferParameter], call: Call
    ) -> tuple[Output, Mapping[str, str]]:
        """The outputs, and the state where the caller keeps it.

        Raises:
            InvalidField, InputTooLarge: of the series, the sequence id or the state.
            SequenceNotStarted, StateMismatch: the request does not fit to its sequence.
        """
        pipeline = model.pipeline
        if pipeline is None:
            return await through_batcher(model, inputs, given, call)
        if pipeline.recurrence.bidirectional:
            return await recurrent.whole(model, _checked(inputs, pipeline), call.deadline), {}
        step = step_of(given)
        if step.state is not None:
            return await self._stateless(model, pipeline, inputs, step.state, call)
        return await self._in_sequence(model, pipeline, inputs, step, call), {}

    async def refused(self, model: SequenceModel, given: Mapping[str, oip.InferParameter], error: InvalidField) -> None:
        """A request that cannot be understood fails in its sequence's turn, as it does behind a gateway.

        Raises:
            InvalidField: `error`.
            SequenceNotStarted, StateMismatch: the request does not fit to its sequence anyway.
        """
        if model.manifest.stateful and in_sequence(given):
            async with self._sequences.turn(model.name, model.version, step_of(given)):
                raise error

    async def _stateless(
        self, model: SequenceModel, pipeline: Pipeline, inputs: Mapping[str, Array], given: str, call: Call
    ) -> tuple[Output, Mapping[str, str]]:
        """The caller keeps the state."""
        width = pipeline.recurrence.state_width
        state = unpacked(_decoded(given), model.digest, width, FIELD) if given else StreamState.fresh(width)
        output = await self._taken(model, pipeline, state, inputs, call)
        return output, {STATE: base64.b64encode(state.packed(model.digest)).decode()}

    async def _in_sequence(
        self, model: SequenceModel, pipeline: Pipeline, inputs: Mapping[str, Array], step: Step, call: Call
    ) -> Output:
        """This instance keeps the state; a request that fails leaves it as it was."""
        async with self._sequences.turn(model.name, model.version, step) as live:
            before = live.value or StreamState.fresh(pipeline.recurrence.state_width)
            state = StreamState(before.step, before.values)
            output = await self._taken(model, pipeline, state, inputs, call)
            live.value = state
            return output

    async def _taken(
        self, model: SequenceModel, pipeline: Pipeline, state: StreamState, inputs: Mapping[str, Array], call: Call
    ) -> Output:
        """The outputs [1, steps, ...]; `state` goes on."""
        rows = _checked(inputs, pipeline)
        _check_one_row(rows, model, pipeline)
        x = rows[0]
        pipeline.check_length(len(x), _field(pipeline), taken=state.step)
        windows = recurrent.advance(model, state, x, call.deadline, self._window_steps, admitted=False)
        return recurrent.joined([window async for window in windows])


def _checked(inputs: Mapping[str, Array], pipeline: Pipeline) -> Array:
    """The series of all rows, float32 [rows, steps, width]."""
    x = inputs[pipeline.recurrence.input]
    pipeline.check_length(x.shape[1], _field(pipeline))
    pipeline.check_finite(x, _field(pipeline))
    return x


def _field(pipeline: Pipeline) -> str:
    return f"inputs[{pipeline.recurrence.input}]"


def _check_one_row(x: Array, model: SequenceModel, pipeline: Pipeline) -> None:
    if len(x) != 1:
        raise InvalidField(
            f"inference request to model '{model.name}' must specify batch-size 1 due to requirements of sequence "
            "batcher",
            field=f"{_field(pipeline)}.shape",
            limit="1",
            value=str(len(x)),
        )


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidField(f"{FIELD} is no base64: {error}", field=FIELD, value=text[:64]) from error
