"""Statistics: the counters of all instances, summed per model and version so that the sums never go back."""

from collections.abc import Iterable

from inference import grpc_service_pb2 as oip

Model = tuple[str, str]  # name, version
REQUESTS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
RUNS = ("compute_input", "compute_infer", "compute_output")
MAX_INSTANCES = 1000  # remembered one by one; the counters of the oldest are then added up


class Statistics:
    """Remembers the last counters of every instance, dead or alive.

    An instance whose counters have become smaller has begun anew (a restart, a model loaded again): what it had counted
    before is kept in `_ended`.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[Model, oip.ModelStatistics]] = {}
        self._ended: dict[Model, oip.ModelStatistics] = {}

    def update(self, instance: str, counters: Iterable[oip.ModelStatistics]) -> None:
        """What the instance counts now."""
        known = self._last.setdefault(instance, {})
        for counted in counters:
            model = (counted.name, counted.version)
            before = known.get(model)
            if before is not None and _went_back(before, counted):
                self._end(model, before)
            known[model] = counted
        while len(self._last) > MAX_INSTANCES:
            oldest = next(iter(self._last))
            for model, before in self._last.pop(oldest).items():
                self._end(model, before)

    def sums(self) -> dict[Model, oip.ModelStatistics]:
        """The sums by name and version, sorted."""
        found: dict[Model, oip.ModelStatistics] = {}
        for counters in (self._ended, *self._last.values()):
            for model, counted in counters.items():
                add(found.setdefault(model, oip.ModelStatistics(name=model[0], version=model[1])), counted)
        return {model: found[model] for model in sorted(found, key=_order)}

    def _end(self, model: Model, counted: oip.ModelStatistics) -> None:
        add(self._ended.setdefault(model, oip.ModelStatistics(name=model[0], version=model[1])), counted)


def add(total: oip.ModelStatistics, counted: oip.ModelStatistics) -> None:
    """Adds every counter of `counted` to `total`; the last inference is the later one."""
    total.last_inference = max(total.last_inference, counted.last_inference)
    total.inference_count += counted.inference_count
    total.execution_count += counted.execution_count
    for name in REQUESTS:
        _add_duration(getattr(total.inference_stats, name), getattr(counted.inference_stats, name))
    by_size = {batch.batch_size: batch for batch in total.batch_stats}
    for batch in counted.batch_stats:
        sum_of = by_size.get(batch.batch_size) or total.batch_stats.add(batch_size=batch.batch_size)
        for name in RUNS:
            _add_duration(getattr(sum_of, name), getattr(batch, name))
    total.batch_stats.sort(key=lambda batch: batch.batch_size)


def _add_duration(total: oip.StatisticDuration, counted: oip.StatisticDuration) -> None:
    total.count += counted.count
    total.ns += counted.ns


def _went_back(before: oip.ModelStatistics, now: oip.ModelStatistics) -> bool:
    return (
        now.inference_count < before.inference_count
        or now.execution_count < before.execution_count
        or now.inference_stats.success.count < before.inference_stats.success.count
        or now.inference_stats.fail.count < before.inference_stats.fail.count
    )


def _order(model: Model) -> tuple[str, int, str]:
    name, version = model
    return name, int(version) if version.isascii() and version.isdigit() else 0, version
