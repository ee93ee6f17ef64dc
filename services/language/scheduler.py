"""Scheduler: texts join and leave between any two steps, and all of them share each step.

One thread owns the graphs. Between two runs it lets in who waits, lets out who has ended, left or is too late, then
reads a piece of the prompts that are new, and takes every other text one token further, or more where drafts are right.
What a run gave goes to the event loop while a later one is under way: there it is counted, turned into text, and sent.
Where a run fails, the texts that no run can take end, and the others go on. (Continuous batching: Yu et al., Orca, OSDI
2022; chunked prefill: Agrawal et al., Sarathi-Serve, OSDI 2024.)
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

import structlog

from services.kit.errors import DeadlineExpired, Draining, NotReady, TriviumError
from services.language.admission import Admission
from services.language.batch import Batch
from services.language.courier import Courier
from services.language.delivery import Delivery
from services.language.isolation import Isolation, Made, Outcome, RunFailed
from services.language.metrics import ModelMetrics
from services.language.outbox import Outbox
from services.language.queue import WaitingTexts
from services.language.sequence import Sequence
from services.language.settings import GenerationSettings


class Scheduler:
    """Writes texts, as an async context manager: entered, it is warm; left, the texts in work have been finished.

    Args:
        batch: the slots; used by this scheduler's thread alone.
        warm_up: runs the shapes that will come, in that thread.
        on_run_failed: called in that thread for each run that the engine refused.
        on_broken: called in the event loop when the graphs have failed for good; from then on every text is refused.
    """

    def __init__(
        self,
        batch: Batch,
        settings: GenerationSettings,
        metrics: ModelMetrics,
        *,
        warm_up: Callable[[], None],
        on_run_failed: Callable[[], None] = lambda: None,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._batch, self._settings, self._metrics = batch, settings, metrics
        self._warm_up, self._on_run_failed, self._on_broken = warm_up, on_run_failed, on_broken
        self._runs, self._delivery = Isolation(batch, self._run_failed), Delivery(metrics)
        self.statistics = self._delivery.statistics
        self._waiting = WaitingTexts(settings.patience_s)
        self._admission = Admission(batch, self._waiting, settings)
        self._closed = self._broken = False
        self._called = False  # somebody has come or left since the last step began
        self._token_s = {"encode": math.inf, "prefill": math.inf}  # seconds a token, in the last such run
        self._until = 0.0  # when something is due, on the clock of time.monotonic
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._log = structlog.get_logger()

    async def __aenter__(self) -> "Scheduler":
        loop = asyncio.get_running_loop()
        self._courier = Courier(loop)
        self._outbox = Outbox(partial(self._courier.tell, self._delivery.ran), self._settings.stream_interval_s)
        self._warm: asyncio.Future[None] = loop.create_future()
        self._ended = asyncio.Event()
        self._thread.start()
        try:
            await self._warm
        except BaseException:
            await self._close()
            raise
        self._metrics.watch(
            lambda: len(self._batch.rows), self._waiting.__len__, lambda: self._batch.reserved, self._batch.capacity
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()
        self._metrics.watch(float, float, float, 0)  # or the gauges would keep the cache in memory

    @property
    def waiting(self) -> int:
        """Texts that were accepted and have no slot yet."""
        return len(self._waiting)

    def submit(self, sequences: list[Sequence]) -> None:
        """Accepts texts of one request; each says itself what comes of it.

        Raises:
            Overloaded: `max_queue` texts are waiting already.
            DeadlineUnreachable: those that come first take longer than the time left.
            DeadlineExpired: no time is left.
            Draining, NotReady: the model is being unloaded, or its engine has failed.
        """
        now = time.monotonic()
        try:
            self._check_open()
            self._admission.check(sequences, now)
        except TriviumError:
            for _ in sequences:
                self.statistics.fail.add(0.0)
            raise
        for sequence in sequences:
            sequence.submitted = now
        self._waiting.add(sequences)
        self._called = True

    def leave(self, sequence: Sequence) -> None:
        """Nobody waits for it any more: it is out before the next step."""
        sequence.left = self._called = True
        if self._waiting.remove(sequence):
            self._delivery.end(sequence, "cancelled")

    def _check_open(self) -> None:
        if self._broken:
            raise NotReady("the engine of this model has failed; the instance's log has the details")
        if self._closed:
            raise Draining("this model is being unloaded")

    async def _close(self) -> None:
        self._closed = True
        self._waiting.close()
        await self._ended.wait()
        self._thread.join()
        self._courier.close()

    def _work(self) -> None:
        """The scheduler's own thread."""
        failure: BaseException | None = None
        try:
            self._warm_up()
            self._courier.tell(_finish, self._warm, None)
            while self._batch.rows or self._waiting.wait():
                self._step()
        except BaseException as error:
            failure = error
        self._outbox.flush()
        self._courier.tell(self._end, failure)

    def _step(self) -> None:
        """Lets out, lets in, reads and writes."""
        self._called = False
        self._let_out()
        if len(self._waiting) or self._batch.to_read:
            self._read()
        deadlines = [row.deadline.at for row in self._batch.rows]
        self._until = min(self._outbox.due, self._waiting.deadline, *deadlines)
        self._ran(self._runs.decode(self._goes_on))

    def _goes_on(self) -> bool:
        """Whether the next run may follow at once: nothing is due, and nobody has come or left."""
        return not self._called and time.monotonic() < self._until

    def _read(self) -> None:
        """Lets in, and reads a piece of what is new."""
        busy = any(row.to_read == 1 for row in self._batch.rows)
        budget = self._settings.chunk_tokens if busy else self._settings.most_read
        joined = self._let_in(budget)
        if self._batch.to_read:
            self._outbox.flush_before(self._reading_s(budget))
        if joined:
            self._ran(self._runs.encode())
        self._ran(self._runs.prefill(budget))

    def _reading_s(self, budget: int) -> float:
        """How long the next runs may take that read sources and prompts, at the pace of the last ones."""
        rows = self._batch.rows
        sources = sum(len(row.source or ()) for row in rows if not row.encoded)
        prompts = min(budget, sum(row.to_read for row in rows if row.to_read > 1))
        read = {"encode": sources, "prefill": prompts}
        return sum(tokens * self._token_s[kind] for kind, tokens in read.items() if tokens)

    def _let_out(self) -> None:
        """Those who left, or whose deadline has passed."""
        now = time.monotonic()
        out = [row for row in self._batch.rows if row.left or row.deadline.at <= now]
        self._outbox.release(out)
        for row in out:
            self._batch.remove(row)
            if row.left:
                self._courier.tell(self._delivery.end, row, "cancelled")
            else:
                error = DeadlineExpired("the deadline passed while the text was being written", stage="compute")
                self._courier.tell(self._delivery.fail, row, "expired", error)
        for waiting in self._waiting.expired(now):
            error = DeadlineExpired("the deadline passed while the text was queued", executed="no", stage="queue")
            self._courier.tell(self._delivery.fail, waiting, "expired", error)

    def _let_in(self, budget: int) -> bool:
        """Those for which there is a place, with sources of at most `budget` tokens, or one; whether there are any.

        The most urgent one is waited for where it does not fit yet: smaller ones would always come before it.
        """
        joined = longest = 0
        while len(self._batch.rows) < self._settings.max_texts:
            sequence = self._waiting.first()
            if sequence is None or not self._batch.fits(sequence):
                break
            longest = max(longest, len(sequence.source or ()))
            if joined and longest * (joined + 1) > budget:
                break
            if not self._waiting.remove(sequence):
                continue  # its caller has just left
            sequence.started = time.monotonic()
            reused = self._batch.join(sequence)
            self._metrics.began(sequence.started - sequence.submitted, reused)
            joined += 1
        return joined > 0

    def _ran(self, outcome: Outcome) -> None:
        """What runs mean for their texts."""
        runs, lost = outcome
        for made in runs:
            self._take(made)
        if lost:
            self._lose(lost)

    def _run_failed(self, failure: RunFailed) -> None:
        self._on_run_failed()
        self._log.warning("run_failed", texts=len(failure.texts), error=str(failure.__cause__))

    def _lose(self, texts: list[Sequence]) -> None:
        """Ends texts that no run can take, unless the graphs can do no run at all.

        Raises whatever the engine raises once it has failed for good.
        """
        self._outbox.release(texts)
        for text in texts:
            self._batch.remove(text, keep=False)
        broken: Exception | None = None
        try:
            self._batch.probe()
        except Exception as error:  # onnxruntime's own classes share no other base
            broken = error
        for text in texts:
            why = _failed() if broken is None else _broken()
            self._courier.tell(self._delivery.fail, text, "failed", why)
        if broken is not None:
            raise broken

    def _take(self, run: Made) -> None:
        """Lets out the texts that a run ended, and tells what it made."""
        now = time.monotonic()
        wasted, at_once = set[Sequence](), dict[Sequence, None]()  # the latter in order
        if run.kind in self._token_s:
            self._token_s[run.kind] = sum(run.seconds) / run.tokens
        for one in run.news:
            sequence = one.sequence
            if sequence.left and sequence.scored_from is None:
                wasted.add(sequence)
            if not sequence.first_token:
                sequence.first_token, at_once[sequence] = now, None
                self._metrics.first_token(now - sequence.submitted)
            if one.finish is not None:
                at_once[sequence] = None
                self._batch.remove(sequence)
                self._admission.ended(now - sequence.started)
        self._outbox.put(run, at_once, len(wasted))

    def _end(self, failure: BaseException | None) -> None:
        """The thread has ended: after `close`, or because of `failure`. Nobody is left waiting. In the event loop."""
        if failure is not None and self._warm.done():
            self._broken = True
            self._log.critical("scheduler_broken", exc_info=failure)
            for sequence in self._batch.rows:
                self._delivery.fail(sequence, "failed", _broken())
            for sequence in self._waiting.clear():
                error = NotReady("the engine of this model has failed", stage="queue")
                self._delivery.fail(sequence, "failed", error)
            self._on_broken()
        _finish(self._warm, failure)
        self._ended.set()


def _failed() -> TriviumError:
    """Of a text that no run can take; another instance may."""
    return TriviumError("the engine failed while it computed this text", stage="compute")


def _broken() -> NotReady:
    return NotReady("the engine of this model has failed", executed="unknown", stage="compute")


def _finish(future: "asyncio.Future[None]", failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
