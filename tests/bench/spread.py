"""Spread: what several rounds said of one quantity; and percentiles."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Raises ValueError if there are none."""
        if not values:
            raise ValueError("no rounds to summarise")
        return cls(statistics.median(values), min(values), max(values))


def ratios(parts: Sequence[float], wholes: Sequence[float]) -> Spread:
    """Each round's part by the same round's whole: what disturbs a round disturbs both."""
    return Spread.of([part / whole if whole else math.nan for part, whole in zip(parts, wholes, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` of them do not exceed (nearest rank); nan for no values.

    Args:
        share: in (0, 1]; 0.5 is the median.
    """
    if not values:
        return math.nan
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
