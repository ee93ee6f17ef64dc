"""A scheduler over a fake model, texts for it, and what their callers get."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from services.language.metrics import GenerationMetrics
from services.language.sampling import Sampling
from services.language.scheduler import Scheduler
from services.language.sequence import Sequence
from services.language.settings import GenerationSettings
from tests.unit.language.fakes import FakeRuns, FakeTokenizer, batch

Runs = TypeVar("Runs", bound=FakeRuns)


class Gate(FakeRuns):
    """Runs wait until they may."""

    def __init__(self, rows: int = 8) -> None:
        super().__init__(rows)
        self.loop = asyncio.get_running_loop()
        self.begun, self.may = asyncio.Event(), asyncio.Event()
        self.closed = False

    def run(self, *arguments: object, **others: object) -> object:  # type: ignore[override]
        if self.closed:
            self.loop.call_soon_threadsafe(self.begun.set)
            asyncio.run_coroutine_threadsafe(self.may.wait(), self.loop).result()
        return super().run(*arguments, **others)  # type: ignore[arg-type]

    def open(self) -> None:
        """From now on nothing waits."""
        self.closed = False
        self.may.set()


def during(runs: Runs, *events: tuple[Callable[[], object], Callable[[], None]]) -> Runs:
    """Pairs, one after the other: in the first run at whose beginning one holds, the other is called in the loop."""
    loop, left, run = asyncio.get_running_loop(), list(events), runs.run

    async def call(event: Callable[[], None]) -> None:
        event()

    def watched(*arguments: object, **others: object) -> object:
        if left and left[0][0]():
            asyncio.run_coroutine_threadsafe(call(left.pop(0)[1]), loop).result()
        return run(*arguments, **others)  # type: ignore[arg-type]

    runs.run = watched  # type: ignore[method-assign, assignment]
    return runs


def times(count: int) -> Callable[[], bool]:
    """Goes on until so many runs are made."""
    asked = itertools.count(1)
    return lambda: next(asked) < count


class Counted:
    """What a scheduler's metrics say."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = GenerationMetrics(self.registry).of("fake", 1)
        self.failed_runs = 0

    def run_failed(self) -> None:
        self.failed_runs += 1

    def value(self, name: str, **labels: str) -> float:
        found = self.registry.get_sample_value(f"trivium_generation_{name}", {"model": "fake", "version": "1"} | labels)
        return found or 0.0


@contextlib.asynccontextmanager
async def scheduler(
    runs: FakeRuns | None = None, counted: Counted | None = None, speculative: int = 0, **settings: int
) -> AsyncIterator[Scheduler]:
    numbers: dict[str, Any] = {"max_texts": 4, "max_queue": 4, "prefix_mib": 0} | settings
    wishes = GenerationSettings(**numbers)
    counted = counted or Counted()
    work = batch(runs or FakeRuns(), speculative=speculative)
    made = Scheduler(work, wishes, counted.metrics, warm_up=lambda: None, on_run_failed=counted.run_failed)
    async with made:
        yield made


def text(
    prompt: list[int],
    limit: int = 8,
    timeout_s: float | None = None,
    priority: int = 0,
    source: list[int] | None = None,
    scored: list[int] | None = None,
    sampling: Sampling | None = None,
) -> Sequence:
    return Sequence(
        prompt,
        sampling or Sampling(),
        FakeTokenizer(),  # type: ignore[arg-type]
        limit=limit,
        end=frozenset(),
        deadline=Deadline.after(timeout_s),
        woken=asyncio.Event(),
        priority=priority,
        source=source,
        scored=scored,
    )


async def tokens(sequence: Sequence, begin: int = 0) -> list[int]:
    found: list[int] = []
    while True:
        sequence.woken.clear()
        piece = sequence.next()
        if piece is None:
            await sequence.woken.wait()
            continue
        assert sequence.scored or piece.index == begin + len(found)
        found += [chosen.token for chosen in piece.tokens]
        if piece.finish is not None:
            return found
