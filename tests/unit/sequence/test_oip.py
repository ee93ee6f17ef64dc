"""The Open Inference Protocol's requests to recurrent bundles: whose state it is, and what a failure does to it."""

import base64
from typing import Any

import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import (
    InputTooLarge,
    InvalidField,
    Overloaded,
    SequenceNotStarted,
    StateMismatch,
    TriviumError,
)
from services.kit.sequences import STATE, SequenceLimits, Sequences
from services.sequence.oip import SequenceInfer
from services.sequence.state import StreamState, unpacked
from tests.unit.sequence.fakes import MAX_STEPS, STATE_WIDTH, FakeModel, manifest, model

Table = Sequences[StreamState]


@pytest.fixture
def sequences() -> Table:
    return Sequences(SequenceLimits())


@pytest.fixture
def infer(sequences: Table) -> SequenceInfer:
    return SequenceInfer(sequences, window_steps=8)


@pytest.fixture
def echo() -> Any:
    return model(kind="values")


async def ask(
    infer: SequenceInfer, asked: Any, *values: float, state: str | None = None, **sequence: Any
) -> tuple[list[float], str | None]:
    """The sums after each step, and the state where there is one."""
    given = {}
    for name, value in sequence.items():
        field = "bool_param" if isinstance(value, bool) else "string_param" if isinstance(value, str) else "int64_param"
        given[f"sequence_{name}"] = oip.InferParameter(**{field: value})
    if state is not None:
        given[STATE] = oip.InferParameter(string_param=state)
    x = np.array(values, np.float32).reshape(1, -1, 1)
    output, texts = await infer(asked, {"x": x}, given, Call("/", Deadline()))
    array = output.arrays["y"]
    assert array.shape == (1, len(values), 3)
    assert output.arrays.keys() == {"y"}
    return array[0, :, 0].tolist(), texts.get(STATE)


async def refusal(infer: SequenceInfer, asked: Any, *values: float, **given: Any) -> TriviumError:
    with pytest.raises(TriviumError) as caught:
        await ask(infer, asked, *values, **given)
    return caught.value


async def test_this_instance_keeps_the_state_of_a_sequence_from_start_to_end(
    infer: SequenceInfer, echo: Any, sequences: Table
) -> None:
    assert await ask(infer, echo, 1, id=7, start=True) == ([1], None)
    assert await ask(infer, echo, 2, 3, id=7) == ([3, 6], None)
    assert await ask(infer, echo, 9, id="7", start=True) == ([9], None)
    assert await ask(infer, echo, *[1] * 20, id=7, end=True) == (list(range(7, 27)), None)
    assert len(sequences) == 1
    assert type(await refusal(infer, echo, 1, id=7)) is SequenceNotStarted


async def test_the_caller_may_keep_the_state_and_then_this_instance_keeps_nothing(
    infer: SequenceInfer, echo: Any, sequences: Table
) -> None:
    sums, state = await ask(infer, echo, 1, 2, state="")
    assert sums == [1, 3]
    for _ in range(2):  # the same step twice is as good as once
        sums, after = await ask(infer, echo, 4, state=state)
        assert sums == [7]
    assert after is not None
    unpacked_ = unpacked(base64.b64decode(after), echo.digest, STATE_WIDTH, "")
    assert (unpacked_.step, unpacked_.values.tolist()) == (3, [[7, 3]])
    assert len(sequences) == 0


async def test_flags_of_a_sequence_change_nothing_where_the_caller_keeps_the_state(
    infer: SequenceInfer, echo: Any, sequences: Table
) -> None:
    _, state = await ask(infer, echo, 1, state="", id=7, start=True)
    assert (await ask(infer, echo, 1, state=state, id=7, end=True))[0] == [2]
    assert len(sequences) == 0


@pytest.mark.parametrize("failing", [{}, {"end": True}])
async def test_a_request_that_fails_leaves_the_sequence_as_it_was(
    infer: SequenceInfer, echo: Any, failing: dict[str, Any]
) -> None:
    await ask(infer, echo, 1, id=7, start=True)
    echo.batcher.error = Overloaded("full")
    assert type(await refusal(infer, echo, 5, id=7, **failing)) is Overloaded
    echo.batcher.error = None
    assert await ask(infer, echo, 2, id=7) == ([3], None)


async def test_a_long_request_that_fails_in_its_second_window_leaves_it_as_it_was_too(
    infer: SequenceInfer, echo: Any
) -> None:
    await ask(infer, echo, 1, id=7, start=True)
    submit = echo.batcher.submit

    async def second_fails(*arguments: Any, **options: Any) -> Any:
        if len(echo.batcher.submitted) == 2:
            raise Overloaded("full")
        return await submit(*arguments, **options)

    echo.batcher.submit = second_fails
    assert type(await refusal(infer, echo, *[1] * 12, id=7)) is Overloaded
    echo.batcher.submit = submit
    assert await ask(infer, echo, 2, id=7) == ([3], None)


async def test_a_start_that_fails_is_no_start(infer: SequenceInfer, echo: Any, sequences: Table) -> None:
    echo.batcher.error = Overloaded("full")
    assert type(await refusal(infer, echo, 5, id=7, start=True)) is Overloaded
    assert len(sequences) == 0
    echo.batcher.error = None
    assert await ask(infer, echo, 5, id=7, start=True) == ([5], None)


@pytest.mark.parametrize(
    ("sequence", "kind", "field"),
    [
        ({}, InvalidField, "parameters.sequence_id"),
        ({"id": 0, "start": True}, InvalidField, "parameters.sequence_id"),
        ({"id": "", "start": True}, InvalidField, "parameters.sequence_id"),
        ({"id": -1, "start": True}, InvalidField, "parameters.sequence_id"),
        ({"id": "i" * 257, "start": True}, InvalidField, "parameters.sequence_id"),
        ({"id": 8}, SequenceNotStarted, "parameters.sequence_start"),
        ({"id": 8, "end": True}, SequenceNotStarted, "parameters.sequence_start"),
        ({"id": 7, "start": True}, StateMismatch, "parameters.sequence_start"),
    ],
)
async def test_what_does_not_fit_to_a_sequence_is_refused_before_any_work(
    infer: SequenceInfer, echo: Any, sequence: dict[str, Any], kind: type[TriviumError], field: str
) -> None:
    await ask(infer, echo, 1, id=7, start=True)
    error = await refusal(infer, echo, 1, **sequence)
    assert (type(error), error.metadata["field"]) == (kind, field)
    assert len(echo.batcher.submitted) == 1


async def test_a_sequence_has_no_more_steps_than_the_bundle_says(infer: SequenceInfer, echo: Any) -> None:
    await ask(infer, echo, *[0.0] * MAX_STEPS, id=7, start=True)
    error = await refusal(infer, echo, 1, id=7)
    assert (type(error), error.metadata["field"], error.metadata["limit"]) == (
        InputTooLarge,
        "inputs[x]",
        str(MAX_STEPS),
    )
    _, state = await ask(infer, echo, *[0.0] * MAX_STEPS, state="")
    assert type(await refusal(infer, echo, 1, state=state)) is InputTooLarge


@pytest.mark.parametrize("values", [[], [0.0] * (MAX_STEPS + 1), [1.0, float("nan")], [float("-inf")]])
async def test_values_that_are_no_series_are_refused(infer: SequenceInfer, echo: Any, values: list[float]) -> None:
    error = await refusal(infer, echo, *values, id=7, start=True)
    assert isinstance(error, InvalidField)
    assert error.metadata["field"] == "inputs[x]"
    assert echo.batcher.submitted == []


async def test_a_damaged_or_foreign_state_is_refused(infer: SequenceInfer, echo: Any) -> None:
    _, state = await ask(infer, echo, 1, state="")
    assert state is not None
    other = FakeModel("other", manifest("values"))
    wrong = [(state[:-4], InvalidField), ("A" + state[1:-1] + "?", InvalidField), ("no base64!", InvalidField)]
    wrong += [("ä", InvalidField), (base64.b64encode(b"TRVS").decode(), InvalidField)]
    for text, kind in wrong:
        error = await refusal(infer, echo, 1, state=text)
        assert (type(error), error.metadata["field"]) == (kind, "parameters.trivium_state")
    error = await refusal(infer, other, 1, state=state)
    assert (type(error), error.metadata["field"]) == (StateMismatch, "parameters.trivium_state")


async def test_one_request_goes_on_with_one_sequence(infer: SequenceInfer, echo: Any) -> None:
    given = {"sequence_id": oip.InferParameter(int64_param=7), "sequence_start": oip.InferParameter(bool_param=True)}
    with pytest.raises(InvalidField, match="must specify batch-size 1") as caught:
        await infer(echo, {"x": np.zeros((2, 1, 1), np.float32)}, given, Call("/", Deadline()))
    assert caught.value.metadata == {"field": "inputs[x].shape", "limit": "1", "value": "2"}


async def test_a_bidirectional_bundle_takes_whole_series_as_many_as_there_are_rows(infer: SequenceInfer) -> None:
    found: Any = model(kind="values", bidirectional=True)
    x = np.arange(12, dtype=np.float32).reshape(4, 3, 1)
    output, texts = await infer(found, {"x": x}, {}, Call("/", Deadline()))
    assert output.arrays["y"][:, :, 0].tolist() == np.cumsum(x[:, :, 0], axis=1).tolist()
    assert texts == {}


async def test_a_bundle_of_tensors_needs_no_sequence(infer: SequenceInfer) -> None:
    class Doubled:
        async def submit(self, inputs: Any, deadline: Deadline) -> Any:
            return {"y": inputs["x"] * 2}

    found: Any = FakeModel("plain", manifest("tensors"))
    found.batcher = Doubled()
    output, texts = await infer(found, {"x": np.ones((2, 1), np.float32)}, {}, Call("/", Deadline()))
    assert (output["y"].tolist(), texts) == ([[2.0], [2.0]], {})  # type: ignore[index]


async def test_a_request_that_cannot_be_understood_fails_in_its_turn_and_ends_its_sequence_if_it_is_the_last(
    infer: SequenceInfer, echo: Any, sequences: Table
) -> None:
    wrong = InvalidField("no tensor at all", field="inputs")

    async def told(**flags: Any) -> TriviumError:
        given = {"sequence_id": oip.InferParameter(int64_param=7)}
        given |= {f"sequence_{name}": oip.InferParameter(bool_param=value) for name, value in flags.items()}
        with pytest.raises(TriviumError) as caught:
            await infer.refused(echo, given, wrong)
        return caught.value

    assert type(await told()) is type(await told(end=True)) is SequenceNotStarted
    assert await told(start=True) is wrong
    assert len(sequences) == 0
    assert await ask(infer, echo, 1, id=7, start=True) == ([1], None)
    assert await told() is wrong
    assert type(await told(start=True)) is StateMismatch
    assert await ask(infer, echo, 2, id=7) == ([3], None)
    assert await told(end=True) is wrong
    assert len(sequences) == 0


async def test_what_is_refused_and_in_no_sequence_kept_here_changes_none(
    infer: SequenceInfer, echo: Any, sequences: Table
) -> None:
    await ask(infer, echo, 1, id=7, start=True)
    wrong = InvalidField("no tensor at all", field="inputs")
    end, seven = oip.InferParameter(bool_param=True), oip.InferParameter(int64_param=7)
    for given in (
        {"sequence_end": end},
        {"sequence_id": seven, "sequence_end": end, STATE: oip.InferParameter(string_param="")},
        {"sequence_id": seven, "sequence_end": oip.InferParameter(string_param="yes")},
    ):
        await infer.refused(echo, given, wrong)
    assert len(sequences) == 1
