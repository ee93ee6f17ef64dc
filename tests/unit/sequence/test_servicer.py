"""SequenceService's promises, with models whose answers can be told and whose batchers do as the test says."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import numpy as np
import pytest

from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import (
    DeadlineExpired,
    Draining,
    InputTooLarge,
    InvalidField,
    ModelNotFound,
    Overloaded,
    StateMismatch,
    TriviumError,
    UnsupportedByModel,
)
from services.kit.inference.ranking import softmaxed
from services.kit.transport.method import methods_of
from services.sequence.leaving import Leaving
from services.sequence.servicer import SequenceServicer
from services.sequence.settings import SeriesSettings
from tests.tracked import Answered, by_step
from tests.unit.sequence.fakes import MAX_STEPS, FakeModels, manifest
from trivium.sequence.v1 import sequence_pb2 as pb

SETTINGS = SeriesSettings(window_steps=8, max_message_steps=20)


@pytest.fixture
def models() -> FakeModels:
    return FakeModels(
        plain=manifest("tensors"),
        classes=manifest("classifier"),
        forecast=manifest("forecaster", width=2),
        both_ways=manifest("classifier", bidirectional=True),
        numbers=manifest("values"),
    )


@pytest.fixture
def leaving() -> Leaving:
    return Leaving()


@pytest.fixture
def servicer(models: FakeModels, leaving: Leaving) -> SequenceServicer:
    return SequenceServicer(cast(Any, models), SETTINGS, leaving)


def call() -> Call:
    return Call("/trivium.sequence.v1.SequenceService/Test", Deadline())


def message(*values: float, **fields: Any) -> pb.TrackRequest:
    return pb.TrackRequest(values=values, **fields)


async def stream(*requests: pb.TrackRequest) -> AsyncIterator[pb.TrackRequest]:
    for request in requests:
        yield request


async def tracked(servicer: SequenceServicer, *requests: pb.TrackRequest, this: Call | None = None) -> list[Answered]:
    """The answers to a stream of these messages, step by step."""
    return by_step([answer async for answer in servicer.track(stream(*requests), this or call())])


async def responses(servicer: SequenceServicer, *requests: pb.TrackRequest) -> list[tuple[list[int], bool]]:
    """The steps of each response to a stream of these messages, and whether it brings the state."""
    found = [by_step([answer]) async for answer in servicer.track(stream(*requests), call())]
    return [([one.step for one in steps], bool(steps[-1].state)) for steps in found]


async def failure(
    servicer: SequenceServicer, *requests: pb.TrackRequest, this: Call | None = None
) -> tuple[list[Answered], TriviumError]:
    """The answers before the error that the stream ends with."""
    answers: list[Answered] = []
    try:
        async for answer in servicer.track(stream(*requests), this or call()):
            answers += by_step([answer])
    except TriviumError as error:
        return answers, error
    raise AssertionError("the stream ended well")


def sums(answers: list[Answered]) -> list[float]:
    """What "numbers" has answered: the sum of all numbers so far."""
    return [answer.values[0] for answer in answers]


class Caller:
    """A caller that sends when the test says so."""

    def __init__(self) -> None:
        self._sent: asyncio.Queue[pb.TrackRequest | None] = asyncio.Queue()
        self.read, self.gone = 0, asyncio.Event()

    def send(self, *requests: pb.TrackRequest | None) -> None:
        for request in requests:
            self._sent.put_nowait(request)

    async def messages(self) -> AsyncGenerator[pb.TrackRequest, None]:
        try:
            while (request := await self._sent.get()) is not None:
                self.read += 1
                yield request
        finally:
            self.gone.set()


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_every_method_of_the_service_is_served_and_track_is_a_live_stream(servicer: SequenceServicer) -> None:
    methods = methods_of(servicer)
    assert len(methods) == len(SequenceServicer.service.methods) == 3
    assert [path.split("/")[-1] for path, method in methods.items() if method.live] == ["Track"]


async def test_classify_ranks_the_classes_after_the_last_step(servicer: SequenceServicer) -> None:
    this = call()
    response = await servicer.classify(pb.ClassifyRequest(model="classes", values=[0.5, 1, -0.5]), this)
    assert [found.label for found in response.classes] == ["most", "middle", "least"]
    assert [found.probability for found in response.classes] == softmaxed(np.arange(3) * 1.0)[::-1].tolist()
    assert ("trivium-model", "classes") in this.trailers
    assert this.stages.keys() == {"decode", "queue", "compute", "encode"}


async def test_forecast_continues_a_series_of_wider_steps(servicer: SequenceServicer) -> None:
    response = await servicer.forecast(pb.ForecastRequest(values=[1, 9, 2, 9], horizon=2), call())
    assert list(response.values) == [3.0] * 4
    response = await servicer.forecast(pb.ForecastRequest(values=[1, 9]), call())
    assert list(response.values) == [1.0] * 6


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 16, 17, MAX_STEPS])
async def test_a_long_series_is_computed_in_windows_and_changes_nothing(
    servicer: SequenceServicer, models: FakeModels, steps: int
) -> None:
    response = await servicer.classify(pb.ClassifyRequest(model="classes", values=[0.01] * steps, top_k=1), call())
    assert response.classes[0].label == "most"
    batcher = models["classes"].batcher
    full, rest = divmod(steps, SETTINGS.window_steps)
    assert batcher.lengths == [8] * full + ([rest] if rest else [])
    assert [admitted for *_, admitted in batcher.submitted] == [False] + [True] * (len(batcher.submitted) - 1)
    for inputs, bucket, _ in batcher.submitted:
        assert inputs["x"].shape == (1, bucket, 1)
        assert bucket in (1, 2, 4, 8)
        assert bucket < 2 * inputs["lengths"][0]


async def test_a_bidirectional_model_reads_whole_series_in_one_run(
    servicer: SequenceServicer, models: FakeModels
) -> None:
    await servicer.classify(pb.ClassifyRequest(model="both_ways", values=[1.0] * 33), call())
    [(inputs, bucket, _)] = models["both_ways"].batcher.submitted
    assert (inputs.keys(), bucket, inputs["lengths"].tolist()) == ({"x", "lengths"}, 64, [33])


@pytest.mark.parametrize("horizon", [0, 4, 2**32 - 1])
async def test_a_horizon_out_of_range_is_refused(servicer: SequenceServicer, horizon: int) -> None:
    with pytest.raises(InvalidField) as caught:
        await servicer.forecast(pb.ForecastRequest(values=[1, 2], horizon=horizon), call())
    assert caught.value.metadata == {"field": "horizon", "limit": "[1, 3]", "value": str(horizon)}


@pytest.mark.parametrize("top_k", [0, 101])
async def test_a_top_k_out_of_range_is_refused(servicer: SequenceServicer, top_k: int) -> None:
    with pytest.raises(InvalidField) as caught:
        await servicer.classify(pb.ClassifyRequest(model="classes", values=[1], top_k=top_k), call())
    assert caught.value.metadata["field"] == "top_k"
    _, error = await failure(servicer, message(1, model="classes", top_k=top_k))
    assert error.metadata["field"] == "top_k"


@pytest.mark.parametrize(("values", "kind"), [([], InvalidField), ([1.0] * (MAX_STEPS + 1), InputTooLarge)])
async def test_a_series_has_at_least_one_step_and_no_more_than_the_limit(
    servicer: SequenceServicer, models: FakeModels, values: list[float], kind: type[TriviumError]
) -> None:
    with pytest.raises(kind) as caught:
        await servicer.classify(pb.ClassifyRequest(model="classes", values=values), call())
    assert caught.value.metadata["field"] == "values"
    assert models["classes"].batcher.submitted == []


async def test_a_failure_of_the_batcher_happened_in_the_stage_queue(
    servicer: SequenceServicer, models: FakeModels
) -> None:
    models["classes"].batcher.error = Overloaded("full")
    this = call()
    with pytest.raises(Overloaded):
        await servicer.classify(pb.ClassifyRequest(model="classes", values=[1]), this)
    assert this.stage == "queue"


async def test_an_empty_name_asks_the_first_model_that_can(servicer: SequenceServicer) -> None:
    this = call()
    await servicer.classify(pb.ClassifyRequest(values=[1]), this)
    assert ("trivium-model", "classes") in this.trailers
    assert (await tracked(servicer, message(1)))[0].model == "classes:1"


@pytest.mark.parametrize(
    ("method", "name", "says"),
    [
        ("classify", "plain", "no classes for a series"),
        ("classify", "forecast", "no classes for a series"),
        ("forecast", "classes", "no forecast"),
        ("forecast", "plain", "no forecast"),
    ],
)
async def test_a_model_that_cannot_answer_says_so(
    servicer: SequenceServicer, method: str, name: str, says: str
) -> None:
    kinds: dict[str, Any] = {"classify": pb.ClassifyRequest, "forecast": pb.ForecastRequest}
    request = kinds[method](model=name, values=[1, 2])
    with pytest.raises(UnsupportedByModel, match=says) as caught:
        await getattr(servicer, method)(request, call())
    assert caught.value.metadata["model"] == name


@pytest.mark.parametrize(("name", "says"), [("plain", "no state between steps"), ("both_ways", "is bidirectional")])
async def test_a_model_without_state_cannot_track(servicer: SequenceServicer, name: str, says: str) -> None:
    answers, error = await failure(servicer, message(1, model=name))
    assert (answers, type(error)) == ([], UnsupportedByModel)
    assert says in error.message


async def test_an_unknown_model_is_not_found(servicer: SequenceServicer) -> None:
    assert type((await failure(servicer, message(1, model="nobody")))[1]) is ModelNotFound


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
