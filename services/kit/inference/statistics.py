"""What a batcher counts: Statistics for ModelStatistics, BatcherMetrics for Prometheus."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.kit.hooks.observe import BUCKETS
from services.kit.inference.job import Job

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(slots=True)
class Total:
    """How often something happened and how long it took altogether."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Once more, for `seconds`; or some times more, for so many altogether."""
        self.count += times
        self.seconds += seconds


@dataclass(slots=True)
class Run:
    """The runs of one batch size."""

    input: Total = field(default_factory=Total)  # joining the inputs
    infer: Total = field(default_factory=Total)
    output: Total = field(default_factory=Total)  # dividing the outputs


@dataclass(slots=True)
class Statistics:
    """Counters of one model version since it was loaded; they only grow."""

    inferences: int = 0  # rows computed for requests that succeeded
    executions: int = 0  # runs of the engine
    last_inference_time: float = 0.0  # seconds since the epoch; 0 before the first
    success: Total = field(default_factory=Total)  # requests, from submission to answer
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)  # of the requests that succeeded, like the next three
    compute_input: Total = field(default_factory=Total)
    compute_infer: Total = field(default_factory=Total)
    compute_output: Total = field(default_factory=Total)
    batches: dict[int, Run] = field(default_factory=lambda: defaultdict(Run))  # by rows in the run

    def record_run(self, rows: int, input_s: float, infer_s: float, output_s: float, *, times: int = 1) -> None:
        """One run of the engine, or some that took so long altogether; always called by the same thread."""
        self.executions += times
        run = self.batches[rows]
        run.input.add(input_s, times)
        run.infer.add(infer_s, times)
        run.output.add(output_s, times)

    def record(self, job: Job, now: float) -> None:
        """One item that left the batcher at the instant `now`; called by the event loop."""
        spent_s, output = now - job.submitted, job.output
        if output is None:
            self.fail.add(spent_s)
            return
        self.inferences += job.rows
        self.last_inference_time = time.time()
        self.success.add(spent_s)
        self.queue.add(output.queue_s)
        self.compute_input.add(job.input_s)
        self.compute_infer.add(output.compute_s)
        self.compute_output.add(job.output_s)


class BatcherMetrics:
    """The Prometheus metrics of all batchers of a process; `of` gives those of one model version."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("model", "version")
        self.rows = Histogram("trivium_batch_rows", "Rows in one run.", labels, buckets=SIZES, registry=registry)
        self.queue = Histogram(
            "trivium_batch_queue_seconds", "Wait of one item for its run.", labels, buckets=BUCKETS, registry=registry
        )
        self.compute = Histogram(
            "trivium_batch_compute_seconds", "One run of the engine.", labels, buckets=BUCKETS, registry=registry
        )
        self.waiting = Gauge("trivium_batch_queue_items", "Items that wait for a run.", labels, registry=registry)
        self.dropped = Counter(
            "trivium_batch_dropped_items", "Items dropped before their run.", (*labels, "reason"), registry=registry
        )
        self.late = Counter(
            "trivium_batch_late_items", "Items that reached the engine after their deadline.", labels, registry=registry
        )
        self.failed = Counter("trivium_batch_failed_runs", "Runs that the engine refused.", labels, registry=registry)

    def of(self, model: str, version: int) -> "ModelMetrics":
        """The metrics with these two labels."""
        return ModelMetrics(self, model, str(version))


class ModelMetrics:
    """The metrics of one model version; any thread may call them."""

    def __init__(self, metrics: BatcherMetrics, model: str, version: str) -> None:
        self._labels = (model, version)
        self._rows, self._queue, self._compute = (
            histogram.labels(*self._labels) for histogram in (metrics.rows, metrics.queue, metrics.compute)
        )
        self._waiting = metrics.waiting.labels(*self._labels)
        self._late, self._failed = (counter.labels(*self._labels) for counter in (metrics.late, metrics.failed))
        self._dropped = metrics.dropped

    def watch(self, waiting: Callable[[], float]) -> None:
        """From now on the length of the queue is what this function returns."""
        self._waiting.set_function(waiting)

    def dropped(self, reason: str) -> None:
        """One item left before its run: "expired" or "cancelled"."""
        self._dropped.labels(*self._labels, reason).inc()

    def starting(self, batch: Sequence[Job], now: float) -> None:
        """A run starts at the instant `now`: counts the items whose deadline has passed."""
        late = sum(job.deadline.at <= now for job in batch)
        if late:
            self._late.inc(late)

    def ran(self, rows: int, seconds: float) -> None:
        """A run ended well."""
        self._rows.observe(rows)
        self._compute.observe(seconds)

    def run_failed(self) -> None:
        """A run failed."""
        self._failed.inc()

    def waited(self, seconds: float) -> None:
        """An item waited so long for its run."""
        self._queue.observe(seconds)
