"""RunTimes and Slack: how long a queue is in seconds, learned from the runs so far."""

import math
from collections.abc import Mapping

WEIGHT = 0.2  # of the newest run in the moving average
# Of the newest error in its mean and in its mean deviation, and the deviations that count as bad luck; the method is
# that of TCP's retransmission timer (RFC 6298).
MEAN_WEIGHT, DEVIATION_WEIGHT, DEVIATIONS = 1 / 8, 1 / 4, 2.0


class RunTimes:
    """A moving average for each batch size and number of steps. Written by one thread, read by another."""

    def __init__(self) -> None:
        self._average_s: dict[int, dict[int, float]] = {}  # by steps, then by rows
        self.fastest_s = 0.0  # of a step in all runs of any size; 0 before the first

    def record(self, rows: int, seconds: float, steps: int = 1) -> None:
        """One run of `rows` took `seconds` for so many steps."""
        averages = self._average_s.get(steps, {})
        known = averages.get(rows)
        average = seconds if known is None else known + WEIGHT * (seconds - known)
        self._average_s = {**self._average_s, steps: {**averages, rows: average}}
        self.fastest_s = min(self.fastest_s or math.inf, seconds / steps)

    def wait_s(self, waiting: Mapping[int, int], max_batch: int) -> float:
        """Estimated seconds until all that wait now have been computed, in batches of `max_batch`.

        Args:
            waiting: rows by the number of their steps; only rows of as many steps share a run.
        """
        total_s = 0.0
        for steps, rows in waiting.items():
            full, rest = divmod(rows, max_batch)
            total_s += full * self.run_s(max_batch, steps) + (self.run_s(rest, steps) if rest else 0.0)
        return total_s

    def run_s(self, rows: int, steps: int = 1) -> float:
        """A run of this size, or of the next larger one that was seen; 0 if there is none.

        Runs of as many steps count. Where there were none, those of the nearest number of steps, in proportion: too
        much rather than too little, as what a run costs besides its steps is counted for each of them.
        """
        seen = self._average_s
        if not seen:
            return 0.0
        nearest = steps if steps in seen else max((n for n in seen if n < steps), default=min(seen))
        return _of_size(rows, seen[nearest]) * steps / nearest


def _of_size(rows: int, averages: Mapping[int, float]) -> float:
    known = averages.get(rows)
    if known is None:
        known = next((averages[size] for size in sorted(averages) if size > rows), 0.0)
    return known


class Slack:
    """How much later than estimated nearly all answers come.

    Under overload every item is accepted at the edge of its deadline: without this, half of them would miss it.
    """

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._deviation_s = 0.0

    @property
    def seconds(self) -> float:
        """What to add to an estimate; negative where estimates are too high."""
        return self._mean_s + DEVIATIONS * self._deviation_s

    def record(self, error_s: float) -> None:
        """The answers of one run came so much later than estimated, at most."""
        self._deviation_s += DEVIATION_WEIGHT * (abs(error_s - self._mean_s) - self._deviation_s)
        self._mean_s += MEAN_WEIGHT * (error_s - self._mean_s)
