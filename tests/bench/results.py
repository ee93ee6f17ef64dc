"""Results: tests/bench/results/DATE.json with everything, DATE.md with the tables and DATE.png with the plot."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.facts import Facts
from tests.bench.outcome import Outcome
from tests.bench.rounds import BarePoint, Point
from tests.bench.summary import Summary

FOLDER = Path(__file__).parent / "results"


def path(facts: Facts) -> Path:
    """FOLDER/2026-11-25T1602, without an ending."""
    FOLDER.mkdir(exist_ok=True)
    return FOLDER / facts.date[:16].replace(":", "")


def write_json(
    path: Path,
    facts: Facts,
    summary: Summary,
    points: Sequence[Point],
    bare: Sequence[BarePoint],
    settings: Mapping[str, Mapping[str, str]],
) -> None:
    """Facts, settings, summary, and each measurement of each round."""
    content = {
        "facts": dataclasses.asdict(facts),
        "settings": settings,
        "summary": dataclasses.asdict(summary),
        "points": [_point(point) for point in points],
        "bare": [dataclasses.asdict(point) for point in bare],
    }
    path.write_text(f"{json.dumps(finite(content), indent=1)}\n", "utf-8")


def _point(point: Point) -> dict[str, Any]:
    outcome = point.sample.outcome
    return dataclasses.asdict(point) | {
        "sample": dataclasses.asdict(point.sample) | {"batch": point.sample.batch, "outcome": _outcome(outcome)}
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    """With percentiles in the place of thousands of latencies."""
    fields = dataclasses.asdict(outcome)
    del fields["latencies_s"]
    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "max_ms": 1.0}
    return fields | {name: outcome.latency_ms(share) for name, share in shares.items()}


def finite(value: Any) -> Any:
    """JSON has no nan: a figure without a value is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
