"""Summary: what the rounds add up to, as tables of figures and not yet of text."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.rounds import BarePoint, Kind, Point, nearest_size
from tests.bench.spread import Spread, ratios
from tests.bench.stand import Target


@dataclass(frozen=True, slots=True)
class BareRow:
    """The bare engine at one batch size."""

    model: str
    rows: int
    rows_per_s: Spread
    run_ms: Spread
    cpu_s_per_1000: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityRow:
    """A closed loop."""

    workload: str
    target: Target
    concurrency: int
    calls_per_s: Spread
    of_bare_one: Spread  # of the bare engine's rows a second at batch 1
    bare_size: int  # the batch size nearest to the one that the batcher reached
    of_bare_reached: Spread  # of the bare engine's at that size
    of_direct: Spread | None  # gateway only: of the same loop without it
    batch: Spread  # mean rows of a run
    p50_ms: Spread
    service_cpu_s: Spread  # for 1000 calls
    gateway_cpu_s: Spread
    generator_cpu_s: Spread
    failures: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """An open loop at a part of the capacity; milliseconds from the instant at which a call was to be sent."""

    workload: str
    target: Target
    offered_per_s: Spread
    p50_ms: Spread
    p90_ms: Spread
    p99_ms: Spread
    lag_p99_ms: Spread  # how late the generator itself was
    failures: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadRow:
    """More calls than the capacity, with a deadline."""

    workload: str
    target: Target
    capacity_per_s: Spread
    offered: Spread  # in parts of the capacity, as it was really sent
    goodput: Spread  # right answers within their deadline, in parts of the capacity
    timeout_ms: float
    p99_ms: Spread  # of these answers
    late_items: int
    failures: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DepartedRow:
    """Calls whose callers leave before their turn."""

    workload: str
    target: Target
    calls: int
    timeout_ms: float
    answered: int
    computed: int  # rows that the engine was given
    late_items: int  # of these, after their deadline: must be 0
    failures: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """All tables."""

    bare: tuple[BareRow, ...]
    capacity: tuple[CapacityRow, ...]
    latency: tuple[LatencyRow, ...]
    overload: tuple[OverloadRow, ...]
    departed: tuple[DepartedRow, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing failed below the capacity and nothing was computed for callers who had left."""
        failed = any(row.failures for row in self.capacity) or any(row.failures for row in self.latency)
        late = any(row.late_items for row in self.overload) or any(row.late_items for row in self.departed)
        return not failed and not late


def summarise(points: Sequence[Point], bare: Sequence[BarePoint]) -> Summary:
    """The tables, in the order in which things were measured first."""
    return Summary(
        bare=tuple(_bare_rows(bare)),
        capacity=tuple(_capacity(group, points, bare) for group in _groups(points, "closed")),
        latency=tuple(_latency(group) for group in _groups(points, "open")),
        overload=tuple(_overload(group) for group in _groups(points, "overload")),
        departed=tuple(_departed(point) for point in points if point.kind == "departed"),
    )


def _groups(points: Iterable[Point], kind: Kind) -> Iterator[list[Point]]:
    """The rounds of each measurement."""
    groups: dict[tuple[str, Target, int], list[Point]] = {}
    for point in points:
        if point.kind == kind:
            groups.setdefault((point.workload, point.target, point.concurrency), []).append(point)
    yield from groups.values()


def _bare_rows(bare: Sequence[BarePoint]) -> Iterator[BareRow]:
    for model, rows in sorted({(point.model, point.ceiling.rows) for point in bare}):
        found = [point.ceiling for point in bare if (point.model, point.ceiling.rows) == (model, rows)]
        yield BareRow(
            model,
            rows,
            Spread.of([ceiling.rows_per_s for ceiling in found]),
            Spread.of([ceiling.run_ms for ceiling in found]),
            Spread.of([ceiling.cpu_s_per_1000_rows for ceiling in found]),
        )


def _capacity(group: Sequence[Point], points: Sequence[Point], bare: Sequence[BarePoint]) -> CapacityRow:
    first = group[0]
    rates = [point.sample.outcome.ok_per_s for point in group]
    return CapacityRow(
        workload=first.workload,
        target=first.target,
        concurrency=first.concurrency,
        calls_per_s=Spread.of(rates),
        of_bare_one=ratios(rates, [_bare_rate(bare, point, 1) for point in group]),
        bare_size=nearest_size(Spread.of([point.sample.batch for point in group]).median),
        of_bare_reached=ratios(rates, [_bare_rate(bare, p, nearest_size(p.sample.batch)) for p in group]),
        of_direct=None if first.target == "direct" else ratios(rates, [_direct_rate(points, p) for p in group]),
        batch=Spread.of([point.sample.batch for point in group]),
        p50_ms=_spread(group, lambda point: point.sample.outcome.latency_ms(0.5)),
        service_cpu_s=_spread(group, lambda point: _per_1000(point, point.sample.service_cpu_s)),
        gateway_cpu_s=_spread(group, lambda point: _per_1000(point, point.sample.gateway_cpu_s)),
        generator_cpu_s=_spread(group, lambda point: _per_1000(point, point.sample.outcome.cpu_s)),
        failures=_failures(group),
    )


def _latency(group: Sequence[Point]) -> LatencyRow:
    return LatencyRow(
        workload=group[0].workload,
        target=group[0].target,
        offered_per_s=_spread(group, lambda point: point.offered_per_s),
        p50_ms=_spread(group, lambda point: point.sample.outcome.latency_ms(0.5)),
        p90_ms=_spread(group, lambda point: point.sample.outcome.latency_ms(0.9)),
        p99_ms=_spread(group, lambda point: point.sample.outcome.latency_ms(0.99)),
        lag_p99_ms=_spread(group, lambda point: point.sample.outcome.lag_p99_s * 1e3),
        failures=_failures(group),
    )


def _overload(group: Sequence[Point]) -> OverloadRow:
    capacity = [point.capacity_per_s for point in group]
    return OverloadRow(
        workload=group[0].workload,
        target=group[0].target,
        capacity_per_s=Spread.of(capacity),
        offered=ratios([point.sample.outcome.sent_per_s for point in group], capacity),
        goodput=ratios([point.sample.outcome.ok_per_s for point in group], capacity),
        timeout_ms=max(point.timeout_s for point in group) * 1e3,
        p99_ms=_spread(group, lambda point: point.sample.outcome.latency_ms(0.99)),
        late_items=sum(point.sample.late_items for point in group),
        failures=_failures(group),
    )


def _departed(point: Point) -> DepartedRow:
    return DepartedRow(
        workload=point.workload,
        target=point.target,
        calls=point.sample.outcome.sent,
        timeout_ms=point.timeout_s * 1e3,
        answered=point.sample.outcome.ok,
        computed=point.sample.rows,
        late_items=point.sample.late_items,
        failures=point.sample.outcome.failures,
    )


def _spread(group: Sequence[Point], figure: Callable[[Point], float]) -> Spread:
    return Spread.of([figure(point) for point in group])


def _per_1000(point: Point, seconds: float) -> float:
    return seconds / point.sample.outcome.sent * 1e3


def _failures(group: Sequence[Point]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for point in group:
        total.update(point.sample.outcome.failures)
    return dict(total)


def _bare_rate(bare: Sequence[BarePoint], point: Point, rows: int) -> float:
    """Of the same model in the same round."""
    wanted = point.round, point.model, rows
    return next(b.ceiling.rows_per_s for b in bare if (b.round, b.model, b.ceiling.rows) == wanted)


def _direct_rate(points: Sequence[Point], point: Point) -> float:
    """Of the same loop in the same round without the gateway."""
    wanted = "closed", point.round, point.workload, point.concurrency, "direct"
    return next(
        p.sample.outcome.ok_per_s for p in points if (p.kind, p.round, p.workload, p.concurrency, p.target) == wanted
    )
