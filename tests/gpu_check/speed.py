"""Speed: how fast an engine runs, from arrays in the host's memory to arrays in the host's memory, as services do."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.kit.inference.bundle import Array
from services.kit.inference.engine import Engine
from tests.bench.spread import percentile

WARM_UP_RUNS = 5


@dataclass(frozen=True, slots=True)
class Speed:
    """Runs of one batch size."""

    rows: int
    p50_ms: float  # of a run
    rows_per_s: float


def measure(engine: Engine, inputs: Mapping[str, Array], outputs: Sequence[str], rows: int, seconds: float) -> Speed:
    """Runs the same inputs again and again; on the GPU with IOBinding, copies in and out included."""
    for _ in range(WARM_UP_RUNS):
        engine.run(inputs, outputs)
    started = ended = time.monotonic()
    runs_s: list[float] = []
    while ended - started < seconds:
        began = ended
        engine.run(inputs, outputs)
        ended = time.monotonic()
        runs_s.append(ended - began)
    return Speed(rows, percentile(runs_s, 0.5) * 1e3, len(runs_s) * rows / (ended - started))
