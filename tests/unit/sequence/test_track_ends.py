"""How a stream of Track ends: after the answers before the fault, with the last step, and leaving nothing behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from services.kit.errors import (
    DeadlineExpired,
    Draining,
    InputTooLarge,
    InvalidField,
    Overloaded,
    StateMismatch,
    TriviumError,
)
from services.sequence.leaving import Leaving
from services.sequence.servicer import SequenceServicer
from tests.tracked import by_step
from tests.unit.sequence.fakes import MAX_STEPS, FakeModels
from tests.unit.sequence.tracking import SETTINGS, Caller, call, failure, message, settled, sums, tracked
from trivium.sequence.v1 import sequence_pb2 as pb


@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("name", ["numbers", "classes"])
async def test_steps_before_one_that_is_too_large_for_the_model_are_answered(
    servicer: SequenceServicer, name: str, at: int
) -> None:
    huge = 3.4e38
    values = [1.0] * at + [huge] * 2 + [1.0] * (10 - at)  # the second one makes the sum infinite
    answers, error = await failure(servicer, message(*values, model=name, return_state=True))
    assert type(error) is InvalidField
    before = at + 1 if name == "numbers" else at  # the scores of the classes are up to twice the sum
    assert ([answer.step for answer in answers], error.metadata["step"]) == (list(range(1, before + 1)), str(before))
    assert not any(answer.state for answer in answers)


async def test_a_damaged_or_foreign_state_is_refused(servicer: SequenceServicer) -> None:
    (answer,) = await tracked(servicer, message(1, model="numbers", return_state=True))
    _, error = await failure(servicer, message(1, model="numbers", resume_state=answer.state[:-1]))
    assert (type(error), error.metadata["field"]) == (InvalidField, "resume_state")
    _, error = await failure(servicer, message(1, model="classes", resume_state=answer.state))
    assert (type(error), error.metadata["field"]) == (StateMismatch, "resume_state")


@pytest.mark.parametrize(
    ("later", "field"),
    [
        (message(1, model="classes"), "model"),
        (message(1, model="numbers:1"), "model"),
        (message(1, resume_state=b"x"), "resume_state"),
    ],
)
async def test_what_belongs_into_the_first_message_is_refused_later(
    servicer: SequenceServicer, later: pb.TrackRequest, field: str
) -> None:
    answers, error = await failure(servicer, message(1, 2, model="numbers"), later)
    assert sums(answers) == [1, 3]
    assert (type(error), error.metadata["field"], error.metadata["step"]) == (InvalidField, field, "2")


@pytest.mark.parametrize(
    ("bad", "kind", "value"),
    [
        (message(float("nan")), InvalidField, "nan"),
        (message(4, 5, float("inf")), InvalidField, "inf"),
        (message(*[0.0] * 21), InputTooLarge, "21"),
    ],
)
async def test_a_bad_message_ends_its_stream_after_the_answers_before_it(
    servicer: SequenceServicer, bad: pb.TrackRequest, kind: type[TriviumError], value: str
) -> None:
    this = call()
    answers, error = await failure(servicer, message(1, 2, model="numbers"), message(3), bad, message(4), this=this)
    assert sums(answers) == [1, 3, 6]
    assert type(error) is kind
    assert (error.metadata["field"], error.metadata["value"], error.metadata["step"]) == ("values", value, "3")
    assert (this.stage, this.fields["steps"]) == ("stream", 3)


async def test_the_steps_of_all_messages_together_have_a_limit_also_after_a_resume(servicer: SequenceServicer) -> None:
    full = [message(*[0.0] * 20) for _ in range(5)]
    answers, error = await failure(servicer, message(model="numbers", return_state=True), *full, message(1))
    assert (len(answers), type(error), error.metadata["step"]) == (MAX_STEPS, InputTooLarge, str(MAX_STEPS))
    assert (error.metadata["limit"], error.metadata["value"]) == (str(MAX_STEPS), str(MAX_STEPS + 1))
    resumed = message(1, model="numbers", resume_state=answers[-1].state)
    answers, error = await failure(servicer, resumed)
    assert (answers, type(error), error.metadata["step"]) == ([], InputTooLarge, str(MAX_STEPS))


async def test_a_stream_is_never_refused_half_done_for_a_full_queue(
    servicer: SequenceServicer, models: FakeModels
) -> None:
    await tracked(servicer, message(1, model="numbers"), message(2), message(*[1.0] * 20))
    assert all(admitted for *_, admitted in models["numbers"].batcher.submitted)


async def test_a_failed_engine_ends_the_stream_with_the_last_step(
    servicer: SequenceServicer, models: FakeModels
) -> None:
    caller = Caller()
    caller.send(message(1, 2, model="numbers"))
    responses = servicer.track(caller.messages(), call())
    answers = by_step([await anext(responses)])
    models["numbers"].batcher.error = Overloaded("full")
    caller.send(message(3))
    with pytest.raises(Overloaded) as caught:
        await anext(responses)
    assert (sums(answers), caught.value.metadata["step"]) == ([1, 3], "2")


async def test_messages_are_read_ahead_but_no_further_than_a_few(
    servicer: SequenceServicer, models: FakeModels
) -> None:
    models["numbers"].batcher.open.clear()
    caller = Caller()
    caller.send(*[message(1, model="numbers")] * 50)
    responses = cast(Any, servicer.track(caller.messages(), call()))
    waiting = asyncio.ensure_future(anext(responses))
    await settled()
    assert 2 <= caller.read <= 5
    models["numbers"].batcher.open.set()
    await waiting
    await settled()  # nobody takes a second answer
    assert len(models["numbers"].batcher.submitted) <= 5
    assert caller.read <= 9
    await responses.aclose()
    await settled()
    assert caller.gone.is_set()
    assert len(asyncio.all_tasks()) == 1


async def test_a_caller_that_leaves_leaves_nothing_behind(servicer: SequenceServicer, models: FakeModels) -> None:
    models["numbers"].batcher.open.clear()
    caller = Caller()
    caller.send(message(1, model="numbers"))

    async def consume() -> None:
        async with contextlib.aclosing(cast(Any, servicer.track(caller.messages(), call()))) as answers:
            await anext(answers)

    task = asyncio.create_task(consume())
    await settled()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await settled()
    assert caller.gone.is_set()
    assert len(asyncio.all_tasks()) == 1


async def test_a_leaving_instance_answers_what_it_has_read_and_says_how_far_it_came(
    servicer: SequenceServicer, models: FakeModels, leaving: Leaving
) -> None:
    models["numbers"].batcher.open.clear()
    caller = Caller()
    caller.send(message(1, model="numbers", return_state=True), message(2, 3))
    responses = servicer.track(caller.messages(), call())
    first = asyncio.ensure_future(anext(responses))
    await settled()
    leaving.leave()
    models["numbers"].batcher.open.set()
    answers = by_step([await first, await anext(responses)])
    with pytest.raises(Draining) as caught:
        await anext(responses)
    assert sums(answers) == [1, 3, 6]
    assert (caught.value.metadata["step"], caught.value.executed) == ("3", "no")
    (answer,) = await tracked(
        SequenceServicer(cast(Any, models), SETTINGS, Leaving()),
        message(4, model="numbers", resume_state=answers[-1].state),
    )
    assert (answer.step, answer.values[0]) == (4, 10)


async def test_a_leaving_instance_ends_streams_that_say_nothing(servicer: SequenceServicer, leaving: Leaving) -> None:
    silent, opened = Caller(), Caller()
    opened.send(message(model="numbers"))
    waits = [asyncio.ensure_future(anext(servicer.track(c.messages(), call()))) for c in (silent, opened)]
    await settled()
    leaving.leave()
    results = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 5)
    assert [type(result) for result in results] == [Draining, Draining]
    assert silent.gone.is_set()
    assert opened.gone.is_set()


async def test_silence_of_the_caller_is_told_with_the_last_step(servicer: SequenceServicer) -> None:
    async def silent() -> AsyncIterator[pb.TrackRequest]:
        yield message(1, 2, model="numbers")
        raise DeadlineExpired("no message passed for 300 s")  # as the transport does

    responses = servicer.track(silent(), call())
    answers = by_step([await anext(responses)])
    with pytest.raises(DeadlineExpired) as caught:
        await anext(responses)
    assert (sums(answers), caught.value.metadata["step"]) == ([1, 3], "2")
