"""Deadline: the instant after which nobody waits for an answer any more."""

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant on the clock of `time.monotonic`, in seconds; infinity means that there is none."""

    at: float = math.inf

    @classmethod
    def after(cls, timeout_s: float | None) -> "Deadline":
        """The instant `timeout_s` seconds from now; None means never."""
        return cls() if timeout_s is None else cls(time.monotonic() + timeout_s)

    def remaining_s(self) -> float:
        """Seconds left; negative once it has passed, infinity if there is no deadline."""
        return self.at - time.monotonic()

    def expired(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self.at

    def timeout_s(self) -> float | None:
        """Seconds left, as transports want it: at least 0, None if there is no deadline."""
        return None if self.at == math.inf else max(0.0, self.remaining_s())
