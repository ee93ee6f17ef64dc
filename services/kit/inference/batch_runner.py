"""BatchRunner: one batch through the engine, with the last look at who still waits and the search for culprits."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import structlog

from services.kit.errors import DeadlineExpired, InvalidField, StartupError
from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.job import Job, Output
from services.kit.inference.statistics import ModelMetrics, Statistics
from services.kit.inference.timing import RunTimes

WARM_UP_S = 5.0  # once the warm-up has taken so long, each further size runs once instead of twice


class Runner(Protocol):
    """What a batcher needs of an engine."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """What `run` wants."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The outputs named, in that order."""

    def example(self, rows: int) -> dict[str, Array]:
        """Inputs of that many rows, for the warm-up."""


class BatchRunner:
    """Runs batches on one engine; for one thread alone, but `times` and `busy_until`, which any may read.

    Args:
        engine: what computes.
        outputs: names of the outputs that every item gets.
        max_rows: of one run.
        batched: whether dimension 0 of every input and output is the batch; if not, each item is a run of its own.
    """

    def __init__(
        self,
        engine: Runner,
        outputs: Sequence[str],
        max_rows: int,
        *,
        batched: bool,
        metrics: ModelMetrics,
        statistics: Statistics,
    ) -> None:
        self._engine, self._outputs, self._batched = engine, tuple(outputs), batched
        self._metrics, self._statistics = metrics, statistics
        self.max_rows = max_rows
        self.names = tuple(spec.name for spec in engine.inputs)
        self.times = RunTimes()
        self.busy_until: float | None = None  # when the run in progress should end; None: the engine is free
        self._buffers = _buffers(engine, max_rows) if batched else {}
        self._log = structlog.get_logger()

    def warm_up(self, stopped: Callable[[], bool]) -> None:
        """Runs every batch size, so that no caller pays for a first run.

        Args:
            stopped: asked before each size; true ends the warm-up.

        Raises:
            StartupError: a run failed, or an output does not have the rows of its input.
        """
        started = time.monotonic()
        for rows in range(1, self.max_rows + 1):
            if stopped():
                return
            inputs = self._engine.example(rows)
            seconds = self._warm_up_run(inputs, rows)
            if time.monotonic() - started < WARM_UP_S:
                seconds = self._warm_up_run(inputs, rows)  # the first run of a size allocates, and is no measure
            self.times.record(rows, seconds)

    def _warm_up_run(self, inputs: Mapping[str, Array], rows: int) -> float:
        """The seconds that it took."""
        started = time.monotonic()
        try:
            self._check_rows(self._engine.run(inputs, self._outputs), rows)
        except Exception as error:  # whatever the runtime raises
            raise StartupError(
                f"the warm-up with {rows} rows of zeros failed: {error}",
                hint="export the model so that any number of rows up to max_batch goes in and comes out",
            ) from error
        return time.monotonic() - started

    def compute(self, batch: list[Job]) -> None:
        """Gives every job its output or its error: one run for those that are still wanted at the last moment.

        Raises whatever the engine raises once it has failed for good.
        """
        try:
            self._compute(batch)
        finally:
            self.busy_until = None

    def _compute(self, batch: list[Job]) -> None:
        started = time.monotonic()
        wanted = self._wanted(batch, started)
        steps = wanted[0].steps if wanted else 0
        self.busy_until = started + self.times.run_s(sum(job.rows for job in wanted), steps)
        while wanted:
            try:
                inputs = self._joined(wanted)
                now = time.monotonic()
                still_wanted = self._wanted(wanted, now)
                if len(still_wanted) == len(wanted):
                    self._run(wanted, inputs, started, now)
                    return
            except Exception as error:
                self._metrics.run_failed()
                self._split(wanted, error)
                return
            wanted = still_wanted

    def _wanted(self, batch: list[Job], now: float) -> list[Job]:
        """Those whose answer can still reach its caller: no run was ever faster than `fastest_s`."""
        fastest_s = self.times.fastest_s
        wanted = [job for job in batch if job.deadline.at > now + fastest_s * job.steps and not job.answer.done()]
        if len(wanted) < len(batch):
            for job in set(batch).difference(wanted):
                self._drop(job)
        return wanted

    def _drop(self, job: Job) -> None:
        if job.answer.done():
            self._metrics.dropped("cancelled")
            return
        self._metrics.dropped("expired")
        job.error = DeadlineExpired("the deadline passed while the item was queued", executed="no", stage="queue")

    def _run(self, batch: list[Job], inputs: Mapping[str, Array], started: float, ready: float) -> None:
        """One run for all of them; `started` and `ready` are the instants before and after their inputs were joined."""
        rows = sum(job.rows for job in batch)
        self._metrics.starting(batch, ready)
        arrays = self._engine.run(inputs, self._outputs)
        ran = time.monotonic()
        self._check_rows(arrays, rows)
        self._divide(batch, arrays, rows, started, ran - ready)
        done = time.monotonic()
        for job in batch:
            job.input_s, job.output_s = ready - started, done - ran
        self.times.record(rows, done - started, batch[0].steps)
        self._statistics.record_run(rows, ready - started, ran - ready, done - ran)
        self._metrics.ran(rows, ran - ready)

    def _divide(self, batch: list[Job], arrays: list[Array], rows: int, started: float, compute_s: float) -> None:
        """Gives every item its own rows of the outputs."""
        if len(batch) == 1:
            own = dict(zip(self._outputs, arrays, strict=True))
            batch[0].output = Output(own, started - batch[0].submitted, compute_s, rows)
            return
        for job, end in zip(batch, itertools.accumulate(job.rows for job in batch), strict=True):
            own = {name: array[end - job.rows : end] for name, array in zip(self._outputs, arrays, strict=True)}
            job.output = Output(own, started - job.submitted, compute_s, rows)

    def _check_rows(self, arrays: Sequence[Array], rows: int) -> None:
        """Rows that are not the items' own must never reach their callers."""
        for name, array in zip(self._outputs, arrays, strict=True):
            if self._batched and array.shape[:1] != (rows,):
                raise ValueError(f"output {name!r} has shape {list(array.shape)} for a batch of {rows}")

    def _split(self, batch: list[Job], error: Exception) -> None:
        """A run failed: halves the batch until the culprits are alone."""
        if len(batch) > 1:
            half = len(batch) // 2
            self._compute(batch[:half])
            self._compute(batch[half:])
            return
        self._engine.run(self._engine.example(1), self._outputs)  # raises if not the item but the engine is at fault
        self._log.warning("run_failed", error=str(error))
        batch[0].error = InvalidField(
            f"the model cannot run on this input: {str(error)[:300]}", field="inputs", stage="compute", executed="yes"
        )

    def _joined(self, batch: Sequence[Job]) -> Mapping[str, Array]:
        """The inputs of all items as one; a lone item's own arrays are used as they are."""
        if len(batch) == 1:
            return batch[0].inputs
        rows = sum(job.rows for job in batch)
        return {name: self._stack(name, [job.inputs[name] for job in batch], rows) for name in self.names}

    def _stack(self, name: str, arrays: Sequence[Array], rows: int) -> Array:
        buffer = self._buffers.get(name)
        joined: Array = np.concatenate(arrays, axis=0, out=None if buffer is None else buffer[:rows])
        return joined


def _buffers(engine: Runner, rows: int) -> dict[str, Array]:
    """Memory for the joined inputs of one run, allocated once; strings and free dimensions have none."""
    example = engine.example(rows)
    return {
        spec.name: example[spec.name]
        for spec in engine.inputs
        if spec.datatype != "BYTES" and all(size > 0 for size in spec.shape[1:])
    }
