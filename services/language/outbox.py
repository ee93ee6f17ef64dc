"""Outbox: what runs made, on its way to the event loop: of a text that begins or ends at once, and else together.

What the loop does with it takes a core from the runs, and hardly more for many tokens of a text than for one.
"""

import time
from collections.abc import Callable, Iterable

from services.language.isolation import Made, News
from services.language.sequence import Sequence

Send = Callable[[list[Made], list[News], int], None]


class Outbox:
    """For the scheduler's thread.

    Args:
        send: takes runs, what they and others before them made of some texts, and how often that was for nobody.
        interval_s: how long what can wait does so, from when all of it went last.
    """

    def __init__(self, send: Send, interval_s: float) -> None:
        self._send, self._interval_s = send, interval_s
        self._runs: list[Made] = []
        self._news: dict[Sequence, News] = {}
        self._wasted = 0
        self._gone = 0.0  # when all went last, on the clock of time.monotonic

    @property
    def due(self) -> float:
        """When what can wait is to go at the latest, on the clock of time.monotonic."""
        return (self._gone if self._news else time.monotonic()) + self._interval_s

    def put(self, run: Made, at_once: Iterable[Sequence], wasted: int) -> None:
        """What a run made.

        Args:
            at_once: texts whose callers are told now.
            wasted: texts that took a token whose callers had left.
        """
        for one in run.news:
            held = self._news.setdefault(one.sequence, one)
            if held is not one and not held.take_in(one):
                self._go([held])
                self._news[one.sequence] = one
        self._runs.append(run)
        self._wasted += wasted
        if time.monotonic() >= self._gone + self._interval_s:
            self.flush()
        else:
            self.release(at_once)

    def release(self, texts: Iterable[Sequence]) -> None:
        """What waits of these texts does so no longer."""
        if news := [self._news.pop(text) for text in texts if text in self._news]:
            self._go(news)

    def flush(self) -> None:
        """Nothing waits any longer."""
        self._gone = time.monotonic()
        if self._news or self._runs:
            news, self._news = list(self._news.values()), {}
            self._go(news)

    def flush_before(self, seconds: float) -> None:
        """What is due before so many seconds have passed goes now."""
        if time.monotonic() + seconds > self.due:
            self.flush()

    def _go(self, news: list[News]) -> None:
        runs, wasted, self._runs, self._wasted = self._runs, self._wasted, [], 0
        self._send(runs, news, wasted)
