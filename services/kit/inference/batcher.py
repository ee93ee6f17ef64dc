"""Batcher: items that arrive together are computed together.

One thread owns the engine. It takes what waits, drops what nobody waits for any more, runs the rest as one batch and
wakes the event loop once for the whole batch.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import structlog

from services.kit.deadline import Deadline
from services.kit.errors import (
    DeadlineExpired,
    DeadlineUnreachable,
    Draining,
    InvalidField,
    NotReady,
    Overloaded,
    TriviumError,
)
from services.kit.inference.batch_runner import BatchRunner, Runner
from services.kit.inference.bundle import Array
from services.kit.inference.job import Job, Output
from services.kit.inference.statistics import ModelMetrics, Statistics
from services.kit.inference.timing import Slack
from services.kit.inference.waiting_line import WaitingLine
from services.kit.settings import setting

__all__ = ["Batcher", "BatcherSettings", "Output", "Runner"]

# How long a run waits for the items that follow those of the last one, as a part of what that one took. Otherwise items
# that were once computed apart would stay apart for ever, in runs of half the size that take more than half the time.
PATIENCE = 0.25


@dataclass(frozen=True, slots=True)
class BatcherSettings:
    """When a batch stops waiting for more items, and how many may wait."""

    max_batch: int = setting(16, low=1)  # rows; the largest size the engine is warmed up with
    max_wait_ms: float = setting(0.0, low=0)  # of a lone item for company; 0: a free engine takes what is there
    max_queue: int = setting(256, low=1)  # items waiting; the next one is refused with QUEUE_FULL


class Batcher:
    """Groups items for one engine, as an async context manager: entered, it is warm; left, its queue has been served.

    Args:
        engine: what computes; used by this batcher's thread alone.
        outputs: names of the outputs that every item gets.
        batched: whether dimension 0 of every input and output is the batch; if not, each item is a run of its own.
        settings: limits of batch and queue.
        metrics: what Prometheus sees; `statistics` counts the same for callers.
        on_broken: called in the event loop when the engine has failed for good; from then on every item is refused.
    """

    def __init__(
        self,
        engine: Runner,
        outputs: Sequence[str],
        settings: BatcherSettings,
        metrics: ModelMetrics,
        *,
        batched: bool = True,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._metrics, self._on_broken, self._batched = metrics, on_broken, batched
        self._max_rows, self._max_queue = settings.max_batch if batched else 1, settings.max_queue
        self.statistics = Statistics()
        self._runner = BatchRunner(
            engine, outputs, self._max_rows, batched=batched, metrics=metrics, statistics=self.statistics
        )
        self._line = WaitingLine(self._max_rows, settings.max_wait_ms / 1e3)
        self._slack = Slack()
        self._closed = self._broken = self._waking = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._log = structlog.get_logger()

    async def __aenter__(self) -> "Batcher":
        self._loop = asyncio.get_running_loop()
        self._warm: asyncio.Future[None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._thread.start()
        try:
            await self._warm
        except BaseException:
            await self._close()
            raise
        self._metrics.watch(self._line.__len__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()
        self._metrics.watch(float)

    @property
    def waiting(self) -> int:
        """Items that were accepted and have not reached the engine."""
        return len(self._line)

    async def submit(
        self,
        inputs: Mapping[str, Array],
        deadline: Deadline,
        *,
        steps: int = 1,
        admitted: bool = False,
        followed: bool = False,
    ) -> Output:
        """The output for one item, computed together with its neighbours in time.

        Args:
            inputs: by input name, each [rows, ...] with the same number of rows, at most `max_batch`; of the engine's
                dtypes.
            steps: of a series that the run takes one after the other; what it costs grows with them.
            admitted: part of what was accepted before, which is not refused half done: it waits however long the line.
            followed: by another item as soon as this one is answered: the next run waits for that one a little.

        Raises:
            Overloaded: `max_queue` items are waiting already.
            DeadlineUnreachable: the run in progress and what waits already take longer than the time left.
            DeadlineExpired: the deadline passed before the item reached the engine.
            InvalidField: the model cannot run on this item, or it has too many rows.
            Draining, NotReady: the model is being unloaded, or its engine has failed.
        """
        rows = self._rows(inputs)
        now = time.monotonic()
        estimate_s = self._estimate_s(rows, steps, now)
        try:
            self._check_open()
            if not admitted:
                self._admit(estimate_s, deadline.at - now)
        except TriviumError:
            self.statistics.fail.add(0.0)
            raise
        shape = tuple([inputs[name].shape[1:] for name in self._runner.names]) if self._batched else ()
        job = Job(inputs, rows, shape, deadline, self._loop.create_future(), now, estimate_s, steps, admitted, followed)
        self._line.add(job)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)
        try:
            return await job.answer
        except asyncio.CancelledError:  # the caller has left: its place is free at once
            if self._line.remove(job):
                self._metrics.dropped("expired" if deadline.expired() else "cancelled")
                self.statistics.record(job, time.monotonic())
            raise

    def _rows(self, inputs: Mapping[str, Array]) -> int:
        if not self._batched:
            return 1
        rows = len(inputs[self._runner.names[0]])
        if not 1 <= rows <= self._max_rows:
            raise InvalidField(
                f"an item has 1 to {self._max_rows} rows, got {rows}",
                field=self._runner.names[0],
                limit=str(self._max_rows),
                value=str(rows),
            )
        return rows

    def _estimate_s(self, rows: int, steps: int, now: float) -> float:
        """Seconds from `now` to the answer for `rows` that arrive now."""
        waiting = self._line.rows()
        waiting[steps] = waiting.get(steps, 0) + rows
        busy_until = self._runner.busy_until
        running_s = 0.0 if busy_until is None else max(0.0, busy_until - now)
        return running_s + self._runner.times.wait_s(waiting, self._max_rows)

    def _check_open(self) -> None:
        if self._broken:
            raise NotReady("the engine of this model has failed; the instance's log has the details")
        if self._closed:
            raise Draining("this model is being unloaded")

    def _admit(self, estimate_s: float, remaining_s: float) -> None:
        waiting = len(self._line) - self._line.admitted
        if waiting >= self._max_queue:
            raise Overloaded(
                f"{waiting} items wait for this model and the limit is {self._max_queue}",
                retry_after_s=estimate_s,
                limit=str(self._max_queue),
                value=str(waiting),
            )
        if len(self._line) == 0 and self._runner.busy_until is None:
            return  # a free engine tries: only a run can show that an estimate was too high
        if remaining_s <= 0:
            raise DeadlineExpired("the deadline passed before the item was queued", executed="no", stage="queue")
        wait_s = estimate_s + self._slack.seconds
        if wait_s > remaining_s:
            raise DeadlineUnreachable(
                f"an answer would take about {wait_s * 1e3:.1f} ms and the deadline is in {remaining_s * 1e3:.1f} ms",
                retry_after_s=max(wait_s, 0.001),
                limit_ms=f"{remaining_s * 1e3:.1f}",
                value_ms=f"{wait_s * 1e3:.1f}",
            )

    def _wake(self) -> None:
        """Tells the thread of all items of this turn of the loop at once, so that the first one does not go alone."""
        self._waking = False
        self._line.wake()

    async def _close(self) -> None:
        self._closed = True
        self._line.close()
        await self._ended.wait()
        self._thread.join()

    def _work(self) -> None:
        """The batcher's own thread."""
        batch: list[Job] = []
        failure: BaseException | None = None
        try:
            self._runner.warm_up(lambda: self._closed)  # in this thread: CUDA keeps its handles by thread
            self._loop.call_soon_threadsafe(_finish, self._warm, None)
            while batch := self._line.take():
                started = time.monotonic()
                self._runner.compute(batch)
                if _is_followed(batch):
                    now = time.monotonic()
                    self._line.expect(now + PATIENCE * (now - started))
                self._loop.call_soon_threadsafe(self._deliver, batch)
        except BaseException as error:
            failure = error
        self._loop.call_soon_threadsafe(self._end, batch, failure)

    def _deliver(self, jobs: Sequence[Job]) -> None:
        now = time.monotonic()
        self._slack.record(max(now - job.submitted - job.estimate_s for job in jobs))
        for job in jobs:
            self.statistics.record(job, now)
            if job.output is not None:
                self._metrics.waited(job.output.queue_s)
            if job.answer.done():
                continue
            if job.output is not None:
                job.answer.set_result(job.output)
            else:
                job.answer.set_exception(job.error or TriviumError("the engine failed while it computed this item"))
        if _is_followed(jobs):
            self._loop.call_soon(self._line.expect, 0.0)  # after all that wait for these answers had their turn

    def _end(self, batch: list[Job], failure: BaseException | None) -> None:
        """The thread has ended: after `close`, or because of `failure`. Nobody is left waiting."""
        if failure is not None and self._warm.done():
            self._broken = True
            self._log.critical("batcher_broken", exc_info=failure)
            waiting = self._line.clear()
            for job in waiting:
                job.error = NotReady("the engine of this model has failed", executed="no", stage="queue")
            if jobs := [*batch, *waiting]:
                self._deliver(jobs)
            self._on_broken()
        _finish(self._warm, failure)
        self._ended.set()


def _is_followed(batch: Sequence[Job]) -> bool:
    return any(job.followed for job in batch)


def _finish(future: "asyncio.Future[None]", failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
