"""Rounds: everything that is measured, in turns, so that what disturbs the machine disturbs all of it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from services.kit.inference.engine import EngineSettings
from tests.bench import arrivals
from tests.bench.ceiling import BareRun, Ceiling
from tests.bench.effort import Effort
from tests.bench.generator import ClosedLoop, Load, OpenLoop
from tests.bench.stand import Sample, Stand, Target
from tests.bench.workload import Subject, Workload

TARGETS: tuple[Target, ...] = ("direct", "gateway")
SIZES = (1, 2, 4, 8, 16, 32, 64)  # batch sizes at which the bare engine is measured
LATENCY_LOAD, OVERLOAD = 0.6, 2.0  # offered load in parts of the capacity
OVERLOAD_TIMEOUT_S, OVERLOAD_RUNS = 0.1, 5  # the deadline: so long, or so many runs of a slow model
LATENCY_TIMEOUT_S = 30.0
LONGEST_S = 8.0  # of one load, on however slow a machine
DEPARTED_CALLS = 500
# Of the time that so many calls take: most of them are still waiting when their callers leave.
DEPARTED_PATIENCE = 0.25

Kind = Literal["closed", "open", "overload", "departed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured load."""

    kind: Kind
    round: int
    model: str
    workload: str
    target: Target
    concurrency: int = 0  # of a closed loop
    offered_per_s: float = 0.0  # of an open loop
    capacity_per_s: float = 0.0  # of this target in this round, where the load was chosen by it
    timeout_s: float = 0.0
    sample: Sample


@dataclass(frozen=True, slots=True)
class BarePoint:
    """One measurement of the bare engine."""

    round: int
    model: str
    ceiling: Ceiling


class Rounds:
    """Measures all subjects on the stand; `points` and `bare` hold what was measured so far."""

    def __init__(self, stand: Stand, effort: Effort, subjects: Sequence[Subject], settings: EngineSettings) -> None:
        self._stand, self._effort, self._subjects, self._settings = stand, effort, subjects, settings
        self._random = Random(2026)
        self.points: list[Point] = []
        self.bare: list[BarePoint] = []

    async def run(self) -> AsyncIterator[Point | BarePoint]:
        """Every measurement as soon as it is done."""
        for number in range(1, self._effort.rounds + 1):
            for subject in self._subjects:
                async for point in self._round(number, subject):
                    self._keep(point)
                    yield point
        for subject in self._subjects:
            for target in TARGETS:
                point = await self._departed(subject, target)
                self._keep(point)
                yield point

    def _keep(self, point: Point | BarePoint) -> None:
        if isinstance(point, Point):
            self.points.append(point)
        else:
            self.bare.append(point)

    async def _round(self, number: int, subject: Subject) -> AsyncIterator[Point | BarePoint]:
        yield await self._bare(number, subject, 1)
        measured = {1}
        capacity: dict[tuple[str, Target], float] = {}
        for workload in subject.workloads:
            for concurrency in self._effort.concurrencies:
                for target in TARGETS:
                    point = await self._closed(number, workload, target, concurrency)
                    yield point
                    key = workload.name, target
                    capacity[key] = max(capacity.get(key, 0.0), point.sample.outcome.ok_per_s)
                    if not capacity[key]:
                        raise RuntimeError(f"no call succeeded: {dict(point.sample.outcome.examples)}")
                    size = nearest_size(point.sample.batch)
                    if size not in measured:
                        measured.add(size)
                        yield await self._bare(number, subject, size)
        for workload in subject.workloads:
            for target in TARGETS:
                yield await self._open(number, workload, target, capacity[workload.name, target])
        for target in TARGETS:
            workload = subject.workloads[0]
            yield await self._overload(number, workload, target, capacity[workload.name, target])

    async def _bare(self, number: int, subject: Subject, rows: int) -> BarePoint:
        model = subject.bundle.path / "model.onnx"
        seconds = self._effort.ceiling_s
        job = BareRun(model, self._settings, subject.inputs, subject.outputs, rows, seconds)
        return BarePoint(number, subject.bundle.name, await self._stand.bare(job))

    async def _closed(self, number: int, workload: Workload, target: Target, concurrency: int) -> Point:
        wanted_s = max(self._effort.closed_s, self._effort.turns * concurrency * self._run_s(workload))
        seconds = min(wanted_s, LONGEST_S)
        shape = ClosedLoop(concurrency, self._effort.warm_up_s, seconds)
        sample = await self._stand.load(Load(self._stand.address(target), workload, shape))
        return Point(
            kind="closed",
            round=number,
            model=workload.model,
            workload=workload.name,
            target=target,
            concurrency=concurrency,
            sample=sample,
        )

    async def _open(self, number: int, workload: Workload, target: Target, capacity_per_s: float) -> Point:
        rate_per_s = LATENCY_LOAD * capacity_per_s
        seconds = min(max(self._effort.open_s, self._effort.open_calls / rate_per_s), LONGEST_S)
        return await self._at_rate(
            "open", number, workload, target, capacity_per_s, rate_per_s, seconds, LATENCY_TIMEOUT_S
        )

    async def _overload(self, number: int, workload: Workload, target: Target, capacity_per_s: float) -> Point:
        rate_per_s, seconds = OVERLOAD * capacity_per_s, self._effort.overload_s
        timeout_s = max(OVERLOAD_TIMEOUT_S, OVERLOAD_RUNS * self._run_s(workload))
        return await self._at_rate("overload", number, workload, target, capacity_per_s, rate_per_s, seconds, timeout_s)

    def _run_s(self, workload: Workload) -> float:
        """One run of the bare engine at batch 1, as it was measured last."""
        found = [b.ceiling.run_ms for b in self.bare if b.model == workload.model and b.ceiling.rows == 1]
        return found[-1] / 1e3

    async def _at_rate(
        self,
        kind: Kind,
        number: int,
        workload: Workload,
        target: Target,
        capacity_per_s: float,
        rate_per_s: float,
        seconds: float,
        timeout_s: float,
    ) -> Point:
        shape = OpenLoop(arrivals.poisson(rate_per_s, seconds, self._random))
        sample = await self._stand.load(Load(self._stand.address(target), workload, shape, timeout_s))
        return Point(
            kind=kind,
            round=number,
            model=workload.model,
            workload=workload.name,
            target=target,
            offered_per_s=rate_per_s,
            capacity_per_s=capacity_per_s,
            timeout_s=timeout_s,
            sample=sample,
        )

    async def _departed(self, subject: Subject, target: Target) -> Point:
        """Many calls at once whose callers leave long before their turn would come."""
        workload = subject.workloads[0]
        capacity_per_s = max(
            point.sample.outcome.ok_per_s
            for point in self.points
            if point.kind == "closed" and point.workload == workload.name and point.target == target
        )
        timeout_s = DEPARTED_PATIENCE * min(DEPARTED_CALLS / capacity_per_s, 4.0)
        shape = OpenLoop(arrivals.burst(DEPARTED_CALLS))
        sample = await self._stand.load(Load(self._stand.address(target), workload, shape, timeout_s))
        return Point(
            kind="departed",
            round=self._effort.rounds,
            model=workload.model,
            workload=workload.name,
            target=target,
            capacity_per_s=capacity_per_s,
            timeout_s=timeout_s,
            sample=sample,
        )


def nearest_size(rows: float) -> int:
    """The power of two nearest to a mean batch size; 1 for none."""
    return min(SIZES, key=lambda size: abs(size - rows))
