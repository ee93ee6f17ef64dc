"""From a recurrent torch network to an ONNX graph whose state goes in and out, and the proof that both are the same.

torch's own export writes the example's number of steps into the graph, or unrolls it; here the ONNX nodes RNN, LSTM
and GRU are written as they are, with the length of each row, so that batch and time stay free.
"""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from services.kit.inference.bundle import Array
from services.kit.inference.manifest import Recurrence, TensorSpec
from services.kit.training.export import (
    OPSET,
    TOLERANCE,
    ParityError,
    _quiet,
    _without_traces,
    interface,
    session,
)
from services.kit.training.recurrent_graph import RecurrentGraph
from services.kit.training.recurrent_network import RecurrentNetwork

INPUT, LENGTHS, STATE, NEXT_STATE = "x", "lengths", "state", "next_state"


class NotExportableError(Exception):
    """The network has something that the graph of a recurrent bundle cannot say."""


def to_onnx(network: RecurrentNetwork, output: str) -> bytes:
    """The network as an ONNX file.

    Its inputs are x, float32 [batch, time, width], lengths, int32 [batch], and state, float32 [batch, state_width]; its
    outputs are `output`, float32 [batch, time, ...], and next_state. A network that reads both ways has no state.

    Raises:
        NotExportableError: the network's layers project their output, or are of another type than float32.
    """
    _check(network)
    graph = RecurrentGraph(network).eval()
    example = _example(network)
    batch, time = torch.export.Dim("batch", min=1), torch.export.Dim("time", min=1)
    shapes = ({0: batch, 1: time}, {0: batch}, {0: batch})
    with _quiet():
        program = torch.onnx.export(
            graph,
            example,
            input_names=[INPUT, LENGTHS, STATE][: len(example)],
            output_names=[output, NEXT_STATE][: len(example) - 1],
            dynamic_shapes=shapes[: len(example)],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return _without_traces(program.model_proto).SerializeToString()


def recurrence(network: RecurrentNetwork, output: str, *, max_steps: int, allow_non_finite: bool = False) -> Recurrence:
    """What the manifest says of the graph that `to_onnx` gives."""
    return Recurrence(
        input=INPUT,
        output=output,
        cell=network.cell,
        layers=network.recurrent.num_layers,
        hidden=network.recurrent.hidden_size,
        max_steps=max_steps,
        bidirectional=network.recurrent.bidirectional,
        horizon=network.horizon,
        allow_non_finite=allow_non_finite,
        lengths=LENGTHS,
        state=STATE,
        next_state=NEXT_STATE,
    )


def public_interface(model: bytes, output: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs that callers see of the graph: the series and the answers."""
    inputs, outputs = interface(model)
    return tuple(spec for spec in inputs if spec.name == INPUT), tuple(spec for spec in outputs if spec.name == output)


def known_answers(model: bytes, series: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """All inputs of the graph, by name, and what it gives for them: a bundle's known answers.

    Every row is as long as the series are: what a graph gives behind the end of a row means nothing.

    Args:
        series: float32 [rows, time, width], at least 2 rows.
    """
    loaded, random = session(model), np.random.default_rng(0)
    inputs: dict[str, Array] = {INPUT: series, LENGTHS: np.full(len(series), series.shape[1], np.int32)}
    for node in loaded.get_inputs():
        if node.name == STATE:
            inputs[STATE] = random.uniform(-0.5, 0.5, (len(series), node.shape[1])).astype(np.float32)
    names = [node.name for node in loaded.get_outputs()]
    return inputs, dict(zip(names, loaded.run(names, inputs), strict=True))


def check_parity(
    network: RecurrentNetwork, model: bytes, series: Array, batches: Sequence[int], windows: Sequence[int]
) -> float:
    """Runs both on the first rows of `series`, for every number of rows in `batches`; the largest difference.

    Rows end at different steps. Where there is a state, a run begins with some other one than zeros, and the graph runs
    once more in parts of every number of steps in `windows`, each with the state that the part before it left.

    Args:
        series: float32 [rows, time, width].

    Raises:
        ParityError: it is more than TOLERANCE somewhere.
    """
    loaded, largest = session(model), 0.0
    random = np.random.default_rng(0)
    for rows in batches:
        x = series[:rows]
        lengths = np.array([1 + (7 * row + rows) % x.shape[1] for row in range(rows)], np.int32)
        state = random.uniform(-0.5, 0.5, (rows, network.state_width)).astype(np.float32)
        with torch.no_grad():
            wanted = [part.numpy() for part in network.eval()(*map(torch.from_numpy, (x, lengths, state)))]
        largest = max(largest, _compare(run(loaded, x, lengths, state), wanted, lengths, f"{rows} rows"))
        for window in windows if network.parts else ():
            got = run_in_windows(loaded, x, lengths, state, window)
            largest = max(largest, _compare(got, wanted, lengths, f"{rows} rows in windows of {window} steps"))
    return largest


def run(loaded: ort.InferenceSession, x: Array, lengths: Array, state: Array) -> tuple[Array, Array]:
    """The graph's answers, float32 [batch, time, ...], and the next state; width 0 where it has none.

    Args:
        x, lengths, state: as `to_onnx` says; the state is passed over where the graph has none.
    """
    inputs = {INPUT: x, LENGTHS: lengths, STATE: state}
    results = loaded.run(None, {node.name: inputs[node.name] for node in loaded.get_inputs()})
    return results[0], results[1] if len(results) > 1 else np.zeros((len(x), 0), np.float32)


def run_in_windows(
    loaded: ort.InferenceSession, x: Array, lengths: Array, state: Array, window: int
) -> tuple[Array, Array]:
    """What `run` gives, by runs of at most `window` steps; rows that have ended are left out of the later ones."""
    state, parts = state.copy(), []
    for start in range(0, x.shape[1], window):
        live = np.flatnonzero(lengths > start)
        part = x[:, start : start + window]
        if len(live):
            left = np.minimum(lengths[live] - start, part.shape[1]).astype(np.int32)
            answers, state[live] = run(loaded, np.ascontiguousarray(part[live]), left, state[live])
            whole = np.zeros((len(x), *answers.shape[1:]), np.float32)
            whole[live] = answers
            parts.append(whole)
    return np.concatenate(parts, axis=1), state


def _compare(got: tuple[Array, Array], wanted: Sequence[Array], lengths: Array, where: str) -> float:
    """The largest difference within the rows' lengths and in the states."""
    steps = got[0].shape[1]
    within = np.arange(steps) < lengths[:, None]
    largest = 0.0
    for a, b in ((got[0][within], wanted[0][:, :steps][within]), (got[1], wanted[1])):
        difference = float(np.abs(a - b).max(initial=0.0))
        if a.shape != b.shape or not np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE):
            raise ParityError(f"{where}: differs by up to {difference:.2g}")
        largest = max(largest, difference)
    return largest


def _check(network: RecurrentNetwork) -> None:
    if network.recurrent.proj_size:
        raise NotExportableError(
            f"proj_size is {network.recurrent.proj_size}: ONNX has no LSTM that projects its output; use proj_size=0"
        )
    others = sorted({str(weight.dtype) for weight in network.parameters() if weight.dtype != torch.float32})
    if others:
        raise NotExportableError(f"weights are of type {', '.join(others)}: call network.float() first")


def _example(network: RecurrentNetwork) -> tuple[Tensor, ...]:
    x, lengths = torch.zeros(2, 3, network.width), torch.tensor([3, 2], dtype=torch.int32)
    return (x, lengths, torch.zeros(2, network.state_width)) if network.parts else (x, lengths)
