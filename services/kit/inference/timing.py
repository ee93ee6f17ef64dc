"""RunTimes and Slack: how long a queue is in seconds, learned from the runs so far."""

import math

WEIGHT = 0.2  # of the newest run in the moving average
# Of the newest error in its mean and in its mean deviation, and the deviations that count as bad luck; the method is
# that of TCP's retransmission timer (RFC 6298).
MEAN_WEIGHT, DEVIATION_WEIGHT, DEVIATIONS = 1 / 8, 1 / 4, 2.0


class RunTimes:
    """A moving average for each batch size. Written by one thread, read by another."""

    def __init__(self) -> None:
        self._average_s: dict[int, float] = {}
        self.fastest_s = 0.0  # of all runs of any size; 0 before the first

    def record(self, rows: int, seconds: float) -> None:
        """One run of `rows` took `seconds`."""
        known = self._average_s.get(rows)
        self._average_s[rows] = seconds if known is None else known + WEIGHT * (seconds - known)
        self.fastest_s = min(self.fastest_s or math.inf, seconds)

    def wait_s(self, rows: int, max_batch: int) -> float:
        """Estimated seconds until `rows` that wait now have been computed, in batches of `max_batch`."""
        full, rest = divmod(rows, max_batch)
        return full * self.run_s(max_batch) + (self.run_s(rest) if rest else 0.0)

    def run_s(self, rows: int) -> float:
        """The average for this size, or for the next larger one that was seen; 0 if there is none."""
        if (known := self._average_s.get(rows)) is not None:
            return known
        return next((self._average_s[size] for size in sorted(self._average_s) if size > rows), 0.0)


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
