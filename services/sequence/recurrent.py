"""RecurrentRunner and `advance`: series through a recurrent graph, many at a time, window by window.

A window goes to the batcher beside the state that its stream is in; rows of other streams, at other steps, share the
run. What a row gives is the same to the bit whatever it shares the run with, however its series is cut: ONNX Runtime
packs constant weights, so that every number of rows is summed alike; only the RNN operator takes another way for a lone
row, which is why such a one is doubled.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence

import numpy as np

from services.kit.deadline import Deadline
from services.kit.inference.batcher import Runner
from services.kit.inference.bundle import Array, Manifest, TensorSpec
from services.kit.inference.engine import Engine
from services.kit.inference.job import Output
from services.kit.inference.loading import plain
from services.kit.inference.manifest import Recurrence
from services.kit.inference.model import Model
from services.sequence.pipeline import Pipeline
from services.sequence.state import StreamState

SequenceModel = Model[Pipeline | None]


class RecurrentRunner:
    """What the batcher runs of a recurrent bundle: the graph with its lengths and its state."""

    def __init__(self, recurrence: Recurrence, engine: Engine) -> None:
        self._recurrence, self._engine = recurrence, engine
        self.inputs: Sequence[TensorSpec] = engine.inputs

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The outputs named, in that order."""
        if self._recurrence.cell == "rnn" and len(inputs[self._recurrence.input]) == 1:
            doubled = {name: np.concatenate((array, array)) for name, array in inputs.items()}
            return [array[:1] for array in self._engine.run(doubled, outputs)]
        return self._engine.run(inputs, outputs)

    def example(self, rows: int) -> dict[str, Array]:
        """One step of zeros for each row."""
        example = self._engine.example(rows)
        example[self._recurrence.lengths][:] = 1  # to a length of 0 the operators answer with zeros for the state
        return example


def runner_of(manifest: Manifest, engine: Engine) -> tuple[Runner, Sequence[str]]:
    """What the batcher runs of a bundle, and the names of its outputs."""
    recurrence = manifest.recurrence
    if recurrence is None:
        return plain(manifest, engine)
    outputs = [spec.name for spec in manifest.outputs]
    hidden = [] if recurrence.bidirectional else [recurrence.next_state]
    return RecurrentRunner(recurrence, engine), [*outputs, *hidden]


async def advance(
    model: SequenceModel, state: StreamState, x: Array, deadline: Deadline, window_steps: int, *, admitted: bool
) -> AsyncGenerator[Output, None]:
    """The public outputs [1, steps, ...] of each window of `x`, in order; `state` goes on with each of them.

    Args:
        x: float32 [steps, width].
        window_steps: the longest window.
        admitted: whether `x` goes on with a stream that was accepted before and will go on after it; otherwise the
            first window may be refused, and nothing follows the last one.

    Raises:
        TriviumError: of the batcher; the state is that after the last window that was given.
    """
    recurrence = model.manifest.recurrence
    assert recurrence is not None
    for start in range(0, len(x), window_steps):
        window = x[start : start + window_steps]
        steps = len(window)
        bucket = min(window_steps, 1 << (steps - 1).bit_length())  # windows of like lengths share runs
        inputs = {
            recurrence.input: _padded(window[np.newaxis], bucket),
            recurrence.lengths: np.array([steps], np.int32),
            recurrence.state: state.values,
        }
        output = await model.batcher.submit(
            inputs,
            deadline,
            steps=bucket,
            admitted=admitted or start > 0,
            followed=admitted or start + steps < len(x),
        )
        # Copies, as the arrays belong to the whole batch and would be kept with the smallest part of them.
        own = {name: array.copy() for name, array in output.arrays.items()}
        state.values = own.pop(recurrence.next_state)
        state.step += steps
        public = {name: array[:, :steps] for name, array in own.items()}
        yield Output(public, output.queue_s, output.compute_s, output.batch_size)


async def series(model: SequenceModel, x: Array, deadline: Deadline, window_steps: int) -> Output:
    """The public outputs [1, steps, ...] of a whole series.

    Args:
        x: float32 [steps, width].
        window_steps: the longest window, if the graph keeps state.
    """
    recurrence = model.manifest.recurrence
    assert recurrence is not None
    if recurrence.bidirectional:
        return await whole(model, x[np.newaxis], deadline)
    state = StreamState.fresh(recurrence.state_width)
    windows = advance(model, state, x, deadline, window_steps, admitted=False)
    return joined([window async for window in windows])


async def whole(model: SequenceModel, x: Array, deadline: Deadline) -> Output:
    """The public outputs [rows, steps, ...] of whole series of one length, for graphs that read both ways.

    Args:
        x: float32 [rows, steps, width].
    """
    recurrence = model.manifest.recurrence
    assert recurrence is not None
    rows, steps = x.shape[:2]
    bucket = 1 << (steps - 1).bit_length()
    inputs = {recurrence.input: _padded(x, bucket), recurrence.lengths: np.full(rows, steps, np.int32)}
    output = await model.batcher.submit(inputs, deadline, steps=bucket)
    public = {name: array[:, :steps] for name, array in output.arrays.items()}
    return Output(public, output.queue_s, output.compute_s, output.batch_size)


def joined(outputs: Sequence[Output]) -> Output:
    """The windows of one series as one output."""
    names = outputs[0].arrays
    arrays = {name: np.concatenate([output.arrays[name] for output in outputs], axis=1) for name in names}
    return Output(
        arrays if len(outputs) > 1 else names,
        sum(output.queue_s for output in outputs),
        sum(output.compute_s for output in outputs),
        max(output.batch_size for output in outputs),
    )


def _padded(x: Array, steps: int) -> Array:
    """[rows, time, width] with zeros behind, up to so many steps."""
    rows, time, width = x.shape
    if time == steps:
        return x
    padded = np.zeros((rows, steps, width), np.float32)
    padded[:, :time] = x
    return padded
