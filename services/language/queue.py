"""WaitingTexts: the texts that were accepted and have no slot yet, the most urgent one first."""

import threading

from services.language.sequence import Sequence


class WaitingTexts:
    """The event loop adds and removes them, the scheduler's thread takes them."""

    def __init__(self) -> None:
        self._texts: list[Sequence] = []
        self._changed = threading.Condition(threading.Lock())
        self._closed = False

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, sequences: list[Sequence]) -> None:
        """Some more; who waits for them learns of it."""
        with self._changed:
            self._texts += sequences
            self._changed.notify()

    def remove(self, sequence: Sequence) -> bool:
        """Takes out one that nobody waits for any more; False if it has a slot already."""
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
        """The most urgent one: by priority, then by deadline, then by arrival. It stays here."""
        with self._changed:
            return min(self._texts, key=_urgency, default=None)

    def expired(self) -> list[Sequence]:
        """Takes out those whose deadline has passed."""
        with self._changed:
            expired = [sequence for sequence in self._texts if sequence.deadline.expired()]
            self._texts = [sequence for sequence in self._texts if sequence not in expired]
            return expired

    def clear(self) -> list[Sequence]:
        """Takes out everything."""
        with self._changed:
            texts, self._texts = self._texts, []
            return texts


def _urgency(sequence: Sequence) -> tuple[int, float, float]:
    return (-sequence.priority, sequence.deadline.at, sequence.submitted)
