import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from services.kit.errors import DeadlineExpired, DeadlineUnreachable, Draining, NotReady, Overloaded, TriviumError
from services.language.metrics import GenerationMetrics
from services.language.sampling import Sampling
from services.language.scheduler import Scheduler
from services.language.sequence import Sequence
from services.language.settings import GenerationSettings
from tests.unit.language.fakes import FakeRuns, FakeTokenizer, batch, metrics, written


class Gate(FakeRuns):
    """Runs wait until they may."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.begun, self.may = asyncio.Event(), asyncio.Event()
        self.closed = False

    def run(self, *arguments: object, **others: object) -> object:  # type: ignore[override]
        if self.closed:
            self.loop.call_soon_threadsafe(self.begun.set)
            asyncio.run_coroutine_threadsafe(self.may.wait(), self.loop).result()
        return super().run(*arguments, **others)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def scheduler(runs: FakeRuns | None = None, **settings: int) -> AsyncIterator[Scheduler]:
    wishes = GenerationSettings(**{"max_texts": 4, "max_queue": 4, "prefix_mib": 0} | settings)
    made = Scheduler(batch(runs or FakeRuns()), wishes, metrics(), warm_up=lambda: None)
    async with made:
        yield made


def text(prompt: list[int], limit: int = 8, timeout_s: float | None = None, priority: int = 0) -> Sequence:
    return Sequence(
        prompt,
        Sampling(),
        FakeTokenizer(),  # type: ignore[arg-type]
        limit=limit,
        end=frozenset(),
        deadline=Deadline.after(timeout_s),
        woken=asyncio.Event(),
        priority=priority,
    )


async def tokens(sequence: Sequence) -> list[int]:
    found: list[int] = []
    while True:
        sequence.woken.clear()
        piece = sequence.next()
        if piece is None:
            await sequence.woken.wait()
            continue
        assert piece.index == len(found)
        found += [chosen.token for chosen in piece.tokens]
        if piece.finish is not None:
            return found


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


async def test_a_caller_that_leaves_costs_no_further_step() -> None:
    runs = Gate()
    async with scheduler(runs) as made:
        runs.closed = True
        staying, leaving = text([1], 12), text([2], 100)
        made.submit([staying, leaving])
        await runs.begun.wait()
        made.leave(leaving)
        runs.closed = False
        runs.may.set()
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
        runs.closed = False
        runs.may.set()
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
        runs.closed = False
        runs.may.set()
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
        runs.closed = False
        runs.may.set()
        await asyncio.gather(*map(tokens, waiting))


async def test_a_deadline_that_passes_ends_the_text_between_two_steps() -> None:
    runs = Gate()
    async with scheduler(runs) as made:
        runs.closed = True
        late = text([1], 100, timeout_s=0.05)
        made.submit([late])
        await runs.begun.wait()
        await asyncio.sleep(late.deadline.remaining_s())
        runs.closed = False
        runs.may.set()
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
        made._taken_s = 10.0
        runs.closed = True
        first = text([1], 2)
        made.submit([first])
        await runs.begun.wait()
        with pytest.raises(DeadlineUnreachable):
            made.submit([text([2], 2, timeout_s=1.0)])
        runs.closed = False
        runs.may.set()
        await tokens(first)


async def test_a_run_that_fails_takes_the_model_out_of_service_and_leaves_nobody_waiting() -> None:
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
        def run(self, first: int, token_ids: object, *arguments: object, **others: object) -> object:  # type: ignore[override]
            self.fails = bool(self.runs)
            return super().run(first, token_ids, *arguments, **others)  # type: ignore[arg-type]

    made = Scheduler(batch(FailsAtDecode()), GenerationSettings(), metrics(), warm_up=lambda: None)
    async with made, asyncio.timeout(10):
        lost, ended = text([1], 4), text([2, 3], 1)
        made.submit([lost, ended])
        with pytest.raises(NotReady):
            await tokens(lost)
        assert await tokens(ended) == written([2, 3], 1)


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
