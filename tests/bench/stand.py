"""Stand: the running suite, the two processes that measure it, and one measurement at a time."""

import asyncio
import contextlib
import multiprocessing
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import psutil

from services.kit.telemetry import LogSettings, configure_logs
from tests.bench import ceiling
from tests.bench.ceiling import BareRun, Ceiling
from tests.bench.cores import Cores
from tests.bench.generator import Load, generate
from tests.bench.outcome import Outcome
from tests.harness import Replica, Suite

Target = Literal["direct", "gateway"]
J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Sample:
    """One load, seen from the generator and from the measured processes."""

    outcome: Outcome
    service_cpu_s: float
    gateway_cpu_s: float
    runs: int  # of the engine, while the load lasted
    rows: int  # in these runs
    late_items: int  # that reached the engine after their deadline
    dropped_items: int  # before their run: expired, or their caller had left

    @property
    def batch(self) -> float:
        """Mean rows of a run; 0 without runs."""
        return self.rows / self.runs if self.runs else 0.0


@dataclass(frozen=True, slots=True)
class Stand:
    """One vision instance, one gateway, the generator's process and the bare engine's."""

    vision: Replica
    gateway: Replica
    _generator: ProcessPoolExecutor
    _bare: ProcessPoolExecutor

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, folder: Path, cores: Cores, bundles: Path, settings: Mapping[str, Mapping[str, str]]
    ) -> AsyncIterator["Stand"]:
        """Starts everything and ends it with the block.

        Args:
            folder: for logs and Consul's data.
            settings: of "vision" and "gateway", by key: {"vision": {"BATCHER__MAX_BATCH": "8"}}.
        """
        async with Suite.open(folder) as suite, contextlib.AsyncExitStack() as stack:
            with cores.of_measured():
                vision = await suite.start("vision", "vision-1", BUNDLES_DIR=bundles, **settings["vision"])
                gateway = await suite.start_gateway(**settings["gateway"])
            generator = stack.enter_context(_process(cores.pin_generator))
            bare = stack.enter_context(_process(cores.pin_measured))
            yield cls(vision, gateway, generator, bare)

    def address(self, target: Target) -> str:
        """host:port of the gRPC port."""
        return {"direct": self.vision, "gateway": self.gateway}[target].address

    async def load(self, load: Load) -> Sample:
        """Runs the load and says what it cost."""
        metrics = await _counters(self.vision)
        cpu_s = _cpu_s(self.vision), _cpu_s(self.gateway)
        outcome = await self._on(self._generator, generate, load)
        service_cpu_s, gateway_cpu_s = _cpu_s(self.vision) - cpu_s[0], _cpu_s(self.gateway) - cpu_s[1]
        grown = {name: value - metrics[name] for name, value in (await _counters(self.vision)).items()}
        return Sample(outcome, service_cpu_s, gateway_cpu_s, *(round(grown[name]) for name in COUNTERS))

    async def bare(self, job: BareRun) -> Ceiling:
        """Runs the engine without anything around it."""
        return await self._on(self._bare, ceiling.measure, job)

    @staticmethod
    async def _on(process: ProcessPoolExecutor, work: Callable[[J], R], job: J) -> R:
        return await asyncio.get_running_loop().run_in_executor(process, work, job)


# In the order of Sample's last fields.
COUNTERS = (
    "trivium_batch_rows_count",
    "trivium_batch_rows_sum",
    "trivium_batch_late_items_total",
    "trivium_batch_dropped_items_total",
)


async def _counters(replica: Replica) -> dict[str, float]:
    metrics = await replica.metrics()
    return {name: sum(value for (found, _), value in metrics.items() if found == name) for name in COUNTERS}


def _cpu_s(replica: Replica) -> float:
    """CPU seconds that the process has used so far, in all its threads."""
    times = psutil.Process(replica.child.pid).cpu_times()
    return float(times.user + times.system)


def _process(pin: Callable[[], None]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_prepare, initargs=(pin,))


def _prepare(pin: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    configure_logs(LogSettings(level="error"))
    pin()
