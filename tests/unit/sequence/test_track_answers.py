"""Track answers every step in order, whole messages at once, and goes on from any state."""

import numpy as np
import pytest

from services.kit.errors import ModelNotFound
from services.sequence.servicer import SequenceServicer
from tests.unit.sequence.tracking import call, failure, message, responses, sums, tracked
from trivium.sequence.v1 import sequence_pb2 as pb


async def test_track_answers_every_step_in_order(servicer: SequenceServicer) -> None:
    this = call()
    requests = [message(1, model="numbers"), message(2, 3), message(), message(*[1.0] * 18, model="numbers")]
    answers = await tracked(servicer, *requests, this=this)
    assert [answer.step for answer in answers] == list(range(1, 22))
    assert sums(answers) == [1, 3, 6, *range(7, 25)]
    assert [answer.model for answer in answers] == ["numbers:1"] + [""] * 20
    assert not any(answer.state for answer in answers)
    assert this.fields == {"model": "numbers:1", "steps": 21, "batch": 3}
    assert this.stages["compute"] == pytest.approx(0.5 * (1 + 1 + 3))  # of the windows 1, 2, 8, 8 and 2
    assert ("trivium-model", "numbers") in this.trailers


async def test_a_classifier_answers_with_classes_and_one_of_them_unless_more_are_asked_for(
    servicer: SequenceServicer,
) -> None:
    (answer,) = await tracked(servicer, message(1, model="classes"))
    assert ([found.label for found in answer.classes], list(answer.values)) == (["most"], [])
    (answer,) = await tracked(servicer, message(1, model="classes", top_k=2))
    assert [found.label for found in answer.classes] == ["most", "middle"]


async def test_a_forecaster_answers_with_its_whole_horizon(servicer: SequenceServicer) -> None:
    first, second = await tracked(servicer, message(1, 0, 2, 0, model="forecast"))
    assert (list(first.values), list(second.values)) == ([1.0] * 6, [3.0] * 6)


async def test_an_empty_stream_has_an_empty_answer(servicer: SequenceServicer) -> None:
    assert await tracked(servicer) == []


async def test_an_opening_message_without_values_checks_the_model(servicer: SequenceServicer) -> None:
    assert await tracked(servicer, message(model="numbers")) == []
    assert type((await failure(servicer, message(model="nobody")))[1]) is ModelNotFound


async def test_the_state_comes_with_the_last_step_of_each_message(servicer: SequenceServicer) -> None:
    answers = await tracked(
        servicer, message(1, model="numbers", return_state=True), message(*[1.0] * 12), message(), message(3, 4)
    )
    assert [answer.step for answer in answers if answer.state] == [1, 13, 15]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((1, 1), [[1], [2]]),
        ((7, 8), [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]]),
        ((8, 1), [[1, 2, 3, 4, 5, 6, 7, 8], [9]]),
        ((9,), [[1, 2, 3, 4, 5, 6, 7, 8], [9]]),
        ((17, 0, 2), [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16], [17], [18, 19]]),
    ],
)
async def test_the_steps_of_one_run_are_answered_together_and_never_with_those_of_another_message(
    servicer: SequenceServicer, sizes: tuple[int, ...], expected: list[list[int]]
) -> None:
    messages = [message(*[1.0] * size) for size in sizes]
    opening = message(model="numbers", return_state=True)
    found = await responses(servicer, opening, *messages)
    assert [steps for steps, _ in found] == expected
    ends = {sum(sizes[: number + 1]) for number in range(len(sizes))}
    assert [steps[-1] for steps, state in found if state] == sorted(ends)
    assert not any(state for _, state in await responses(servicer, message(model="numbers"), *messages))


@pytest.mark.parametrize("name", ["numbers", "classes", "forecast"])
async def test_many_steps_a_message_say_what_one_step_a_message_says(servicer: SequenceServicer, name: str) -> None:
    width = 2 if name == "forecast" else 1
    values = np.random.default_rng(1).integers(-9, 9, size=20 * width).tolist()  # whose sums are exact
    opening = pb.TrackRequest(model=name, top_k=2)
    one_by_one = [message(*values[start : start + width]) for start in range(0, len(values), width)]
    assert await tracked(servicer, opening, message(*values)) == await tracked(servicer, opening, *one_by_one)


@pytest.mark.parametrize("at", range(6))
async def test_a_stream_goes_on_from_its_state_at_any_message(servicer: SequenceServicer, at: int) -> None:
    messages = [message(1), message(2, 3), message(4), message(5, 6, 7), message(8), message(9)]
    opening = pb.TrackRequest(model="numbers", return_state=True)
    whole = await tracked(servicer, opening, *messages)
    before = await tracked(servicer, opening, *messages[:at])
    state = before[-1].state if before else b""
    after = await tracked(servicer, pb.TrackRequest(model="numbers", resume_state=state), *messages[at:])
    assert sums(before) + sums(after) == sums(whole)
    assert [answer.step for answer in before + after] == list(range(1, 10 + 1))[: len(whole)]
    assert after[0].model == "numbers:1"


async def test_a_state_without_a_step_more_is_no_fault(servicer: SequenceServicer) -> None:
    (answer,) = await tracked(servicer, message(1, model="numbers", return_state=True))
    assert await tracked(servicer, message(model="numbers", resume_state=answer.state)) == []
