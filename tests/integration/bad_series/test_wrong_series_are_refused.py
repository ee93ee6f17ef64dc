"""What is no series is refused whole, and a bad message ends its stream after all answers before it."""

from typing import Any

import numpy as np
import pytest

from tests.hostile import details
from tests.integration.bad_series.places import (
    INFINITY,
    INVALID,
    MAX_MESSAGE_STEPS,
    MAX_STEPS,
    NAN,
    TOO_LARGE,
    Place,
    Refusal,
    refused,
    stream_refused,
)
from tests.series import graph_says, messages, said

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([NAN, 1], INVALID),
        ([1, 2, 3, INFINITY], INVALID),
        ([1, 2, -INFINITY, 4], INVALID),
        ([1, 2, 3], INVALID),
        ([], INVALID),
        ([0] * 2 * (MAX_STEPS + 1), TOO_LARGE),
    ],
    ids=["NaN", "infinity", "minus infinity", "half a step", "no step", "too many steps"],
)
async def test_what_is_no_series_is_refused_whole(place: Place, values: list[float], expected: Refusal) -> None:
    assert await refused(place.caller.forecast("lstm", values)) == expected
    await place.neighbours_are_well()


@pytest.mark.parametrize("values", [[], [NAN], [1.0] * 4097], ids=["no step", "NaN", "too many steps"])
async def test_and_it_has_no_classes_either(place: Place, values: list[float]) -> None:
    expected = TOO_LARGE if len(values) > 1 else INVALID
    for name in ("digits-rnn", "both"):
        assert await refused(place.caller.classify(name, values)) == expected
    await place.neighbours_are_well()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([NAN, 1], INVALID),
        ([1, INFINITY], INVALID),
        ([1, 2, 3], INVALID),
        ([0] * 2 * (MAX_MESSAGE_STEPS + 1), TOO_LARGE),
    ],
    ids=["NaN", "infinity", "half a step", "too many steps of one message"],
)
async def test_a_bad_message_ends_its_stream_after_all_answers_before_it(
    place: Place, values: list[float], expected: Refusal
) -> None:
    good = {"values": [1, 2, 3, 4], "model": "lstm"}
    assert await stream_refused(place, {**good, "values": values}) == (expected, "0")
    assert await stream_refused(place, good, {"values": values}, {"values": [1, 2]}, answers=2) == (
        expected,
        "2",
    )
    await place.neighbours_are_well()


async def test_a_bundle_may_take_what_is_not_finite(place: Place) -> None:
    x = np.array([[1], [NAN], [INFINITY], [2]], np.float32)
    answers = await place.caller.track("any", messages(x, (1, 3)))
    assert [answer.step for answer in answers] == [1, 2, 3, 4]
    assert len(await place.caller.forecast("any", x)) == 3 * 4
    bits, _ = await place.caller.infer("any", x, sequence_id=1, sequence_start=True, sequence_end=True)
    assert len(bits) == 4 * 3 * 4
    finite = np.array([[1], [2], [3]], np.float32)
    assert said(await place.caller.track("any", [finite])) == graph_says(place.bundles["any"], finite).tobytes()


async def test_an_empty_message_is_no_fault_of_a_stream(place: Place) -> None:
    x = np.ones((3, 2), np.float32)
    answers = await place.caller.track("lstm", [x[:1], x[:0], x[1:], x[:0]])
    assert said(answers) == graph_says(place.bundles["lstm"], x).tobytes()
    assert await place.caller.track("lstm", []) == []


async def test_the_steps_of_a_stream_have_a_limit_also_after_a_resume(place: Place) -> None:
    full = messages(np.zeros((MAX_STEPS, 2), np.float32), (MAX_MESSAGE_STEPS,))
    answers = await place.caller.track("lstm", full, return_state=True)
    assert answers[-1].step == MAX_STEPS
    more = {"model": "lstm", "resume_state": answers[-1].state, "values": [1, 2]}
    assert await stream_refused(place, more) == (TOO_LARGE, str(MAX_STEPS))
    before = next(answer for answer in reversed(answers) if answer.state and answer.step < MAX_STEPS)
    one_too_many = {"model": "lstm", "resume_state": before.state, "values": [0] * 2 * (MAX_STEPS - before.step + 1)}
    assert await stream_refused(place, one_too_many) == (TOO_LARGE, str(before.step))
    await place.neighbours_are_well()


@pytest.mark.parametrize("top_k", [0, 101, 2**32 - 1])
async def test_top_k_and_horizon_have_their_limits(place: Place, top_k: int) -> None:
    expected = Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "top_k")
    assert await refused(place.caller.classify("digits-rnn", [1.0], top_k=top_k)) == expected
    found, _ = await stream_refused(place, {"model": "digits-rnn", "values": [1.0], "top_k": top_k})
    assert found == expected
    expected = Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "horizon")
    assert await refused(place.caller.forecast("rnn", [1.0], horizon=top_k)) == expected


@pytest.mark.parametrize(
    ("later", "field"),
    [({"model": "rnn"}, "model"), ({"model": "lstm:1"}, "model"), ({"resume_state": b"TRVS"}, "resume_state")],
    ids=["another model", "another name of the model", "a state"],
)
async def test_what_belongs_into_the_first_message_is_refused_later(
    place: Place, later: dict[str, Any], field: str
) -> None:
    first = {"model": "lstm", "values": [1, 2]}
    found, step = await stream_refused(place, first, {"values": [3, 4], **later}, answers=1)
    assert (found, step) == (Refusal("INVALID_ARGUMENT", "INVALID_FIELD", field), "1")


@pytest.mark.parametrize(
    ("model", "code", "reason"),
    [
        ("nope", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("lstm:9", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("lstm:zero", "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("both", "UNIMPLEMENTED", "UNSUPPORTED_BY_MODEL"),
        ("regression-mlp", "UNIMPLEMENTED", "UNSUPPORTED_BY_MODEL"),
    ],
)
async def test_a_model_that_cannot_track_is_refused(place: Place, model: str, code: str, reason: str) -> None:
    stream = place.caller.stream()
    await stream.send(model=model, values=[1, 2])
    answers, error = await stream.failure()
    found, info, _ = details(error)
    assert (answers, found, info.reason, info.metadata["executed"]) == ([], code, reason, "no")


async def test_bytes_that_are_no_message_end_the_stream_after_the_answers_before_them(place: Place) -> None:
    for opening in (True, False):
        stream = place.caller.stream()
        if opening:
            await stream.send([1, 2, 3, 4], model="lstm")
            await stream.answers(2)
        await stream.call.write(b"\xff\xff\xff rubbish")
        answers, error = await stream.failure()
        code, info, _ = details(error)
        assert (answers, code, info.reason) == ([], "INVALID_ARGUMENT", "MALFORMED_REQUEST")
        if opening:
            assert info.metadata["step"] == "2"
    await place.neighbours_are_well()
