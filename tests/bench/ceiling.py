"""Ceiling: what the bare engine does, in a process of its own on the measured cores. Nothing is faster."""

import functools
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.kit.inference.bundle import Array
from services.kit.inference.engine import Engine, EngineSettings


@dataclass(frozen=True, slots=True)
class BareRun:
    """One job: session.run in a closed loop."""

    model: Path
    settings: EngineSettings  # the service's: the same session options and device
    inputs: tuple[dict[str, Array], ...]  # each of one row
    outputs: tuple[str, ...]
    rows: int  # of a run
    seconds: float


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What it did."""

    rows: int
    rows_per_s: float
    run_ms: float  # mean
    cpu_s_per_1000_rows: float


def measure(job: BareRun) -> Ceiling:
    """Runs the engine until the time is over; the inputs lie ready in batches of `rows`."""
    engine = _engine(job.model, job.settings)
    batches = itertools.cycle(_batches(job))
    for _ in range(3):
        engine.run(next(batches), job.outputs)
    runs, cpu_s, started = 0, time.process_time(), time.monotonic()
    while (spent_s := time.monotonic() - started) < job.seconds:
        engine.run(next(batches), job.outputs)
        runs += 1
    rows = runs * job.rows
    return Ceiling(job.rows, rows / spent_s, spent_s / runs * 1e3, (time.process_time() - cpu_s) / rows * 1e3)


def _batches(job: BareRun) -> list[dict[str, Array]]:
    rows = itertools.cycle(job.inputs)
    groups = [list(itertools.islice(rows, job.rows)) for _ in job.inputs]
    return [{name: np.concatenate([row[name] for row in group]) for name in group[0]} for group in groups]


@functools.cache
def _engine(model: Path, settings: EngineSettings) -> Engine:
    return Engine(model, settings)
