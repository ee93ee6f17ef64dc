"""WaitingTexts: the texts that were accepted and have no slot yet, the most urgent one first."""

import bisect
import math
import threading

from services.language.sequence import Sequence

Urgency = tuple[int, float, float]


class WaitingTexts:
    """The event loop adds and removes them, the scheduler's thread takes them.

    They come by priority, then by deadline, then by arrival. Whoever has a later deadline, or none, counts as one whose
    deadline is `patience_s` after its arrival: what arrives later than that does not come before it.

    Args:
        patience_s: seconds.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._texts: list[Sequence] = []  # in order
        self._deadline = math.inf  # none of them has an earlier one
        self._changed = threading.Condition(threading.Lock())
        self._closed = False

    @property
    def deadline(self) -> float:
        """None of them has an earlier one."""
        return self._deadline

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, sequences: list[Sequence]) -> None:
        """Some more, which know when they arrived; who waits for them learns of it."""
        with self._changed:
            for sequence in sequences:
                bisect.insort(self._texts, sequence, key=self._urgency)
                self._deadline = min(self._deadline, sequence.deadline.at)
            self._changed.notify()

    def remove(self, sequence: Sequence) -> bool:
        """Takes out one that begins, or that nobody waits for any more; False if it is here no longer."""
        with self._changed:
            if sequence not in self._texts:
                return False
            self._texts.remove(sequence)
            return True

    def close(self) -> None:
        """From now on `wait` waits for nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wait(self) -> bool:
        """Returns when there is something; False once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._texts or self._closed)
            return bool(self._texts)

    def first(self) -> Sequence | None:
        """The most urgent one. It stays here."""
        with self._changed:
            return self._texts[0] if self._texts else None

    def before(self, sequence: Sequence, now: float) -> list[Sequence]:
        """Those that begin before one that would arrive at the instant `now`."""
        with self._changed:
            urgency = self._urgency_at(sequence, now)
            return self._texts[: bisect.bisect_right(self._texts, urgency, key=self._urgency)]

    def expired(self, now: float) -> list[Sequence]:
        """Takes out those whose deadline has passed at the instant `now`."""
        if now < self._deadline:
            return []
        with self._changed:
            expired = [sequence for sequence in self._texts if sequence.deadline.at <= now]
            self._texts = [sequence for sequence in self._texts if sequence.deadline.at > now]
            self._deadline = min((sequence.deadline.at for sequence in self._texts), default=math.inf)
            return expired

    def clear(self) -> list[Sequence]:
        """Takes out everything."""
        with self._changed:
            texts, self._texts = self._texts, []
            return texts

    def _urgency(self, sequence: Sequence) -> Urgency:
        return self._urgency_at(sequence, sequence.submitted)

    def _urgency_at(self, sequence: Sequence, arrived: float) -> Urgency:
        return (-sequence.priority, min(sequence.deadline.at, arrived + self._patience_s), arrived)
