import asyncio
import gc
import weakref

import pytest
from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from services.kit.errors import DeadlineExpired, DeadlineUnreachable, Draining, NotReady, Overloaded, TriviumError
from services.language.metrics import GenerationMetrics
from services.language.scheduler import Scheduler
from services.language.settings import GenerationSettings
from tests.unit.language.fakes import FakeRuns, batch, metrics, written
from tests.unit.language.scheduling import Counted, Gate, during, scheduler, text, tokens
from tests.unit.language.test_delivery import read


async def test_texts_of_many_callers_come_complete() -> None:
    async with scheduler() as made:
        texts = [text([number, 3], 20) for number in range(8)]
        made.submit(texts[:4])
        made.submit(texts[4:])
        found = await asyncio.gather(*map(tokens, texts))
    assert found == [written([number, 3], 20) for number in range(8)]


async def test_a_slow_reader_gets_all_at_once_and_holds_up_nobody() -> None:
    async with scheduler() as made:
        slow, quick = text([1], 30), text([2], 60)
        made.submit([slow, quick])
        assert await tokens(quick) == written([2], 60)
        piece = slow.next()
        assert piece is not None
        assert [chosen.token for chosen in piece.tokens] == written([1], 30)


@pytest.mark.parametrize("long", [True, False])
async def test_tokens_of_quick_steps_come_together_but_for_the_first_one_and_before_a_long_prompt(long: bool) -> None:
    runs = Gate()

    def stop() -> None:
        runs.closed = True
        runs.begun.clear()
        runs.may.clear()

    during(runs, (lambda: len(runs.runs) == 4, stop), (lambda: len(runs.runs) == 5, stop))
    async with scheduler(runs, stream_interval_s=3600) as made:
        first, second = text([1, 2], 30), text([3, 4], 2)
        made.submit([first])
        await first.woken.wait()
        first.woken.clear()
        piece = first.next()
        assert piece is not None
        assert len(piece.tokens) == 1
        await runs.begun.wait()
        pace_s = made._token_s["prefill"]
        if long:
            made._token_s["prefill"] = 3600.0
        made.submit([second])
        runs.begun.clear()
        runs.open()
        await runs.begun.wait()
        if long:
            await first.woken.wait()
            piece = first.next()
            assert piece is not None
            assert (piece.index, len(piece.tokens)) == (1, 4)
        else:
            assert first.next() is None
        runs.open()
        assert await tokens(second) == written([3, 4], 2)
        begin = 5 if long else 1
        assert await tokens(first, begin) == written([1, 2], 30)[begin:]
    assert 0.0 < pace_s < 1.0


async def test_a_caller_that_leaves_costs_no_further_step() -> None:
    runs = Gate()
    async with scheduler(runs) as made:
        runs.closed = True
        staying, leaving = text([1], 12), text([2], 100)
        made.submit([staying, leaving])
        await runs.begun.wait()
        made.leave(leaving)
        runs.open()
        await tokens(staying)
    assert len(leaving.made) <= 1


async def test_a_caller_that_leaves_while_it_waits_never_begins() -> None:
    runs = Gate()
    async with scheduler(runs, max_texts=1) as made:
        runs.closed = True
        first, second = text([1], 4), text([2], 4)
        made.submit([first])
        await runs.begun.wait()
        made.submit([second])
        made.leave(second)
        runs.open()
        await tokens(first)
        assert made.waiting == 0
    assert second.made == []


async def test_priority_comes_first_and_then_the_earliest_deadline() -> None:
    runs = Gate()
    async with scheduler(runs, max_texts=1) as made:
        runs.closed = True
        first = text([1], 2)
        made.submit([first])
        await runs.begun.wait()
        waiting = [text([2], 2), text([3], 2, timeout_s=60), text([4], 2, timeout_s=50), text([5], 2, priority=1)]
        made.submit(waiting)
        runs.open()
        await asyncio.gather(*map(tokens, waiting))
    begun = sorted(waiting, key=lambda one: one.started)
    assert [one.prompt for one in begun] == [[5], [4], [3], [2]]


async def test_a_full_queue_refuses() -> None:
    runs = Gate()
    async with scheduler(runs, max_texts=1, max_queue=2) as made:
        runs.closed = True
        first = text([1], 2)
        made.submit([first])
        await runs.begun.wait()
        waiting = [text([2], 2), text([3], 2)]
        made.submit(waiting)
        with pytest.raises(Overloaded, match="2 texts wait"):
            made.submit([text([4], 2)])
        runs.open()
        await asyncio.gather(*map(tokens, waiting))


async def test_a_deadline_that_passes_ends_the_text_between_two_steps() -> None:
    runs = Gate()
    async with scheduler(runs) as made:
        runs.closed = True
        late = text([1], 100, timeout_s=0.05)
        made.submit([late])
        await runs.begun.wait()
        await asyncio.sleep(late.deadline.remaining_s())
        runs.open()
        with pytest.raises(DeadlineExpired):
            await tokens(late)
    assert len(late.made) <= 2


async def test_a_deadline_that_has_passed_is_refused() -> None:
    async with scheduler() as made:
        with pytest.raises(DeadlineExpired):
            made.submit([text([1], 4, timeout_s=-1)])


async def test_a_deadline_that_the_queue_cannot_meet_is_refused_at_the_door() -> None:
    runs = Gate()
    async with scheduler(runs, max_texts=1) as made:
        made._admission.taken_s = 10.0
        runs.closed = True
        first = text([1], 2)
        made.submit([first])
        await runs.begun.wait()
        with pytest.raises(DeadlineUnreachable):
            made.submit([text([2], 2, timeout_s=1.0)])
        runs.open()
        await tokens(first)


async def test_an_engine_that_can_do_no_run_is_taken_out_of_service_and_leaves_nobody_waiting() -> None:
    runs, broken = FakeRuns(), asyncio.Event()
    made = Scheduler(batch(runs), GenerationSettings(), metrics(), warm_up=lambda: None, on_broken=broken.set)
    async with made:
        runs.fails = True
        lost = text([1], 4)
        made.submit([lost])
        with pytest.raises(TriviumError) as failure:
            await tokens(lost)
        assert failure.value.metadata["executed"] == "unknown"
        await broken.wait()
        with pytest.raises(NotReady):
            made.submit([text([2], 4)])


async def test_a_text_that_has_ended_is_told_even_if_the_next_run_fails() -> None:
    class FailsAtDecode(FakeRuns):
        def run(self, *arguments: object, **others: object) -> object:  # type: ignore[override]
            self.fails = bool(self.runs)
            return super().run(*arguments, **others)  # type: ignore[arg-type]

    made = Scheduler(batch(FailsAtDecode()), GenerationSettings(), metrics(), warm_up=lambda: None)
    async with made, asyncio.timeout(10):
        lost, ended = text([1], 4), text([2, 3], 1)
        made.submit([lost, ended])
        with pytest.raises(NotReady):
            await tokens(lost)
        assert await tokens(ended) == written([2, 3], 1)


@pytest.mark.parametrize("end", ["expired", "failed"])
async def test_a_text_that_ends_with_an_error_has_all_that_was_made_before(end: str) -> None:
    one, other, told = text([1, 2], 100), text([3, 4], 100), list[int]()
    runs = FakeRuns()

    def late() -> None:
        one.deadline = Deadline.after(0.0)
        made._called = True

    def fail() -> None:
        runs.fails = True

    during(runs, (lambda: len(runs.runs) == 8, late if end == "expired" else fail))
    async with scheduler(runs, stream_interval_s=3600) as made, asyncio.timeout(10):
        made.submit([one, other])
        with pytest.raises(TriviumError):
            await read(one, told)
    assert len(told) > 5
    assert told == one.made == written([1, 2], len(told))


async def test_texts_in_work_are_finished_when_the_model_is_unloaded() -> None:
    last = text([1], 50)
    async with scheduler() as made:
        made.submit([last])
    assert len(last.made) == 50
    with pytest.raises(Draining):
        made.submit([text([2])])


async def test_nothing_keeps_the_cache_of_a_model_that_was_unloaded() -> None:
    counted = GenerationMetrics(CollectorRegistry())
    runs = FakeRuns()
    cache = weakref.ref(runs.cache)
    made = Scheduler(batch(runs), GenerationSettings(), counted.of("fake", 1), warm_up=lambda: None)
    async with made:
        made.submit([text([1], 4)])
    del made, runs
    gc.collect()
    assert cache() is None


async def test_a_text_is_counted_once() -> None:
    async with scheduler() as made:
        good, late = text([1], 4), text([2], 100, timeout_s=0.0)
        made.submit([good])
        await tokens(good)
        with pytest.raises(DeadlineExpired):
            made.submit([late])
        statistics = made.statistics
    assert (statistics.success.count, statistics.fail.count, statistics.inferences) == (1, 1, 1)
    assert statistics.executions == 4


async def test_a_text_that_does_not_fit_yet_is_not_overtaken_by_those_behind_it() -> None:
    runs = Gate(rows=2)
    async with scheduler(runs, max_texts=8, max_queue=8) as made:
        runs.closed = True
        in_work = [text([number], 20 + number) for number in range(4)]
        made.submit(in_work)
        await runs.begun.wait()
        big, small = text([5] * 100, 28), [text([6, number], 4) for number in range(4)]
        made.submit([big])
        made.submit(small)
        assert made.waiting == 5
        runs.open()
        await asyncio.gather(*map(tokens, (*in_work, big, *small)))
    assert all(big.started < one.started for one in small)


async def test_a_text_without_a_deadline_begins_under_a_constant_load_of_texts_with_deadlines() -> None:
    async with scheduler(max_texts=1, patience_s=0) as made:
        in_work, patient = text([1], 30), text([2], 4)
        made.submit([in_work])
        made.submit([patient])
        found = asyncio.create_task(tokens(patient))
        others = 0
        async with asyncio.timeout(10):
            while not found.done():
                urgent = text([3], 2, timeout_s=30)
                made.submit([urgent])
                await tokens(urgent)
                others += 1
        assert await found == written([2], 4)
    assert others <= 2


async def test_a_prompt_that_is_being_read_while_its_caller_leaves_wastes_no_token() -> None:
    counted, writing, reading = Counted(), text([1], 60), text([2] * 100, 4)
    runs = during(
        FakeRuns(),
        (lambda: writing.made, lambda: made.submit([reading])),
        (lambda: reading.cached, lambda: made.leave(reading)),
    )
    async with scheduler(runs, counted, chunk_tokens=16) as made:
        made.submit([writing])
        await tokens(writing)
    assert 16 <= reading.cached < 100
    assert counted.value("wasted_steps_total") == 0
    assert counted.value("texts_total", reason="cancelled") == 1
    assert counted.value("tokens_total", kind="made") == 60
    assert made.statistics.fail.count == 1


async def test_a_token_that_is_made_while_its_caller_leaves_is_wasted() -> None:
    counted, leaving = Counted(), text([2, 3], 20)
    runs = during(FakeRuns(), (lambda: len(runs.runs) == 5, lambda: made.leave(leaving)))
    async with scheduler(runs, counted) as made:
        made.submit([leaving])
    assert len(leaving.made) == 6
    assert counted.value("wasted_steps_total") == 1
    assert counted.value("tokens_total", kind="made") == 6


async def test_a_score_for_a_caller_that_left_is_no_token_that_was_made() -> None:
    counted, leaving = Counted(), text([3] * 39, 0, scored=[3] * 30)
    runs = during(FakeRuns(), (lambda: True, lambda: made.leave(leaving)))
    async with scheduler(runs, counted) as made:
        made.submit([leaving])
    assert leaving.cached > 0
    assert counted.value("wasted_steps_total") == counted.value("tokens_total", kind="made") == 0


async def test_a_text_that_is_cancelled_while_it_waits_costs_nothing_and_is_counted() -> None:
    runs, counted = Gate(), Counted()
    async with scheduler(runs, counted, max_texts=1) as made:
        runs.closed = True
        first, second = text([1], 4), text([2], 4)
        made.submit([first])
        await runs.begun.wait()
        made.submit([second])
        made.leave(second)
        runs.open()
        await tokens(first)
    assert counted.value("texts_total", reason="cancelled") == 1
    assert counted.value("wasted_steps_total") == 0
    assert counted.value("tokens_total", kind="prompt") + counted.value("tokens_total", kind="made") == 4
