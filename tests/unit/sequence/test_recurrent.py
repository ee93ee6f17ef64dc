"""What the batcher runs of a recurrent bundle, and how a series becomes windows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from services.kit.deadline import Deadline
from services.kit.inference.bundle import Array
from services.kit.inference.manifest import TensorSpec
from services.sequence import recurrent
from services.sequence.recurrent import RecurrentRunner, runner_of
from services.sequence.state import StreamState
from tests.unit.sequence.fakes import STATE_WIDTH, manifest, model


class FakeEngine:
    """Notes what it runs, and answers with it."""

    inputs = (TensorSpec("x", "FP32", (-1, -1, 1)), TensorSpec("lengths", "INT32", (-1,)))

    def __init__(self) -> None:
        self.rows: list[int] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        self.rows.append(len(inputs["x"]))
        return [inputs["x"] + 1, inputs["x"] + 2]

    def example(self, rows: int) -> dict[str, Array]:
        return {"x": np.zeros((rows, 1, 1), np.float32), "lengths": np.zeros(rows, np.int32)}


def runner(cell: Any) -> tuple[RecurrentRunner, FakeEngine]:
    recurrence, engine = manifest("values").recurrence, FakeEngine()
    assert recurrence is not None
    fake: Any = engine
    return RecurrentRunner(dataclasses.replace(recurrence, cell=cell), fake), engine


@pytest.mark.parametrize(("cell", "lone"), [("rnn", 2), ("lstm", 1), ("gru", 1)])
def test_a_lone_row_of_an_rnn_is_doubled_and_nobody_sees_it(cell: str, lone: int) -> None:
    run, engine = runner(cell)
    for rows in (1, 2, 5):
        x = np.arange(rows, dtype=np.float32).reshape(rows, 1, 1)
        outputs = run.run({"x": x, "lengths": np.ones(rows, np.int32)}, ["y", "next_state"])
        assert [array.tolist() for array in outputs] == [(x + 1).tolist(), (x + 2).tolist()]
    assert engine.rows == [lone, 2, 5]


def test_the_example_has_one_step_as_a_length_of_0_is_none() -> None:
    assert runner("lstm")[0].example(3)["lengths"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "outputs"),
    [
        ({}, ["y", "next_state"]),
        ({"bidirectional": True}, ["y"]),
        ({"kind": "tensors"}, ["y"]),
    ],
)
def test_the_state_is_an_output_that_the_manifest_does_not_list(changes: dict[str, Any], outputs: list[str]) -> None:
    engine: Any = FakeEngine()
    assert list(runner_of(manifest(**{"kind": "values", **changes}), engine)[1]) == outputs


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9, 20, 100])
@pytest.mark.parametrize("window", [1, 3, 8, 4096])
async def test_windows_change_nothing_but_the_runs(steps: int, window: int) -> None:
    echo: Any = model(kind="values")
    x = np.arange(1, steps + 1, dtype=np.float32).reshape(-1, 1)
    state = StreamState(3, np.array([[10, 3]], np.float32))
    outputs = [out async for out in recurrent.advance(echo, state, x, Deadline(), window, admitted=False)]
    said = recurrent.joined(outputs).arrays["y"]
    assert said[0, :, 0].tolist() == (10 + np.cumsum(x)).tolist()
    assert (state.step, state.values.tolist()) == (3 + steps, [[10 + x.sum(), 3 + steps]])
    assert max(echo.batcher.lengths) <= window
    assert sum(echo.batcher.lengths) == steps
    for inputs, bucket, _ in echo.batcher.submitted:
        assert inputs["x"].shape == (1, bucket, 1)
        assert bucket <= window
        assert not inputs["x"][0, inputs["lengths"][0] :].any()


@pytest.mark.parametrize("live", [False, True])
async def test_the_engine_waits_for_what_follows_a_window_and_nothing_follows_the_last_one_of_a_series(
    live: bool,
) -> None:
    echo: Any = model(kind="values")
    x = np.ones((9, 1), np.float32)
    windows = recurrent.advance(echo, StreamState.fresh(STATE_WIDTH), x, Deadline(), 4, admitted=live)
    assert len([window async for window in windows]) == 3
    assert echo.batcher.followed == [True, True, live]


async def test_a_failure_leaves_the_state_after_the_last_window_that_was_given() -> None:
    echo: Any = model(kind="values")
    state = StreamState.fresh(STATE_WIDTH)
    windows = recurrent.advance(echo, state, np.ones((9, 1), np.float32), Deadline(), 4, admitted=True)
    await anext(windows)
    echo.batcher.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await anext(windows)
    assert (state.step, state.values.tolist()) == (4, [[4, 4]])


async def test_the_state_does_not_keep_the_memory_of_the_whole_batch() -> None:
    echo: Any = model(kind="values")
    state = StreamState.fresh(STATE_WIDTH)
    assert [w async for w in recurrent.advance(echo, state, np.ones((1, 1), np.float32), Deadline(), 4, admitted=True)]
    assert state.values.base is None
