"""What this service counts of the texts that it writes."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.kit.observations import Observations

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class GenerationMetrics:
    """The Prometheus metrics of all models of a process; `of` gives those of one model version."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("model", "version")
        self.tokens = Counter(
            "trivium_generation_tokens",
            "Tokens made, and tokens of prompts read.",
            (*labels, "kind"),
            registry=registry,
        )
        self.steps = Observations(
            "trivium_generation_step_seconds", "One run.", (*labels, "kind"), buckets=SECONDS, registry=registry
        )
        self.rows = Observations(
            "trivium_generation_step_rows", "Texts in one run.", (*labels, "kind"), buckets=ROWS, registry=registry
        )
        self.first = Histogram(
            "trivium_generation_first_token_seconds",
            "From the request to its first token.",
            labels,
            buckets=SECONDS,
            registry=registry,
        )
        self.queue = Histogram(
            "trivium_generation_queue_seconds", "Wait of one text.", labels, buckets=SECONDS, registry=registry
        )
        self.finished = Counter(
            "trivium_generation_texts", "Texts that ended, by reason.", (*labels, "reason"), registry=registry
        )
        self.reused = Counter(
            "trivium_generation_reused_tokens", "Tokens of prompts not computed again.", labels, registry=registry
        )
        self.wasted = Counter(
            "trivium_generation_wasted_steps", "Steps of texts whose callers had left.", labels, registry=registry
        )
        self.drafted = Counter(
            "trivium_generation_draft_tokens", "Tokens that were drafted and computed.", labels, registry=registry
        )
        self.accepted = Counter(
            "trivium_generation_accepted_draft_tokens", "Drafted tokens that were drawn.", labels, registry=registry
        )
        self.running = Gauge("trivium_generation_texts_running", "Texts being written.", labels, registry=registry)
        self.waiting = Gauge("trivium_generation_texts_waiting", "Texts that wait.", labels, registry=registry)
        self.reserved = Gauge(
            "trivium_generation_cache_tokens_reserved",
            "Tokens of the caches that texts in work, and their sources, may fill.",
            labels,
            registry=registry,
        )
        self.capacity = Gauge(
            "trivium_generation_cache_tokens_capacity",
            "Tokens that the caches have room for.",
            labels,
            registry=registry,
        )

    def of(self, model: str, version: int) -> "ModelMetrics":
        """The metrics with these two labels."""
        return ModelMetrics(self, model, str(version))


class ModelMetrics:
    """The metrics of one model version; any thread may call them, and always the same one `ran`."""

    def __init__(self, metrics: GenerationMetrics, model: str, version: str) -> None:
        self._metrics, self._labels = metrics, (model, version)
        kinds = ("encode", "prefill", "decode")
        self._steps = {kind: metrics.steps.labels(*self._labels, kind) for kind in kinds}
        self._rows = {kind: metrics.rows.labels(*self._labels, kind) for kind in kinds}
        self._read = metrics.tokens.labels(*self._labels, "prompt")
        self._made = metrics.tokens.labels(*self._labels, "made")
        self._first, self._queue = metrics.first.labels(*self._labels), metrics.queue.labels(*self._labels)
        self._drafted, self._accepted = metrics.drafted.labels(*self._labels), metrics.accepted.labels(*self._labels)
        self._reused, self._wasted = metrics.reused.labels(*self._labels), metrics.wasted.labels(*self._labels)

    def watch(
        self, running: Callable[[], float], waiting: Callable[[], float], reserved: Callable[[], float], capacity: int
    ) -> None:
        """From now on the gauges are what these functions return."""
        self._metrics.running.labels(*self._labels).set_function(running)
        self._metrics.waiting.labels(*self._labels).set_function(waiting)
        self._metrics.reserved.labels(*self._labels).set_function(reserved)
        self._metrics.capacity.labels(*self._labels).set(capacity)

    def ran(self, kind: str, rows: int, tokens: int, made: int, seconds: Sequence[float]) -> None:
        """A run, or each of some in a row, took `tokens` of `rows` texts; together they gave `made` new ones."""
        self._steps[kind].add(seconds)
        self._rows[kind].add([rows] * len(seconds))
        if kind != "decode":
            self._read.inc(tokens)
        elif tokens > rows:
            self._drafted.inc(tokens - rows)
            self._accepted.inc(made - rows)
        self._made.inc(made)

    def began(self, queue_s: float, reused: int) -> None:
        """A text got its place."""
        self._queue.observe(queue_s)
        self._reused.inc(reused)

    def first_token(self, seconds: float) -> None:
        """A text has its first token."""
        self._first.observe(seconds)

    def wasted(self, steps: int) -> None:
        """Steps of texts that nobody waits for."""
        self._wasted.inc(steps)

    def finished(self, reason: str) -> None:
        """A text ended: "stop", "length", "cancelled", "expired" or "failed"."""
        self._metrics.finished.labels(*self._labels, reason).inc()
