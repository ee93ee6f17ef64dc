"""Courier: carries calls from a thread to the event loop, in order, at little cost to that thread."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

Call = tuple[Callable[..., None], tuple[Any, ...]]


class Courier:
    """A thread between the two.

    Whoever wakes an event loop gives up the interpreter to do it, and gets it back when the loop has done what it was
    woken for. The scheduler's thread has a run to start before; so this one does the waking while the run goes on. What
    the loop does then takes a core from the run: what can wait is carried together.

    Args:
        interval_s: how long calls that can wait do so, and up to the next one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        self._loop, self._interval_s = loop, interval_s
        self._held: list[Call] = []
        self._gone = 0.0  # when calls were carried last, on the clock of time.monotonic
        self._calls: queue.SimpleQueue[list[Call] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
        self._thread.start()

    @property
    def due(self) -> float:
        """When what can wait is to be carried at the latest, on the clock of time.monotonic."""
        return (self._gone if self._held else time.monotonic()) + self._interval_s

    def tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Calls it in the event loop soon; one thread may say so, here and below."""
        self._held.append((callback, arguments))
        self.flush()

    def tell_later(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Calls it with what is told next, or at once where nothing was for `interval_s`; `flush` ends the wait."""
        if time.monotonic() - self._gone >= self._interval_s:
            self.tell(callback, *arguments)
        else:
            self._held.append((callback, arguments))

    def flush(self) -> None:
        """What waits does so no longer."""
        if self._held:
            self._gone = time.monotonic()
            self._calls.put(self._held)
            self._held = []

    def close(self) -> None:
        """Returns when the loop knows everything that was told."""
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (calls := self._calls.get()) is not None:
            self._loop.call_soon_threadsafe(self._arrive, calls)

    def _arrive(self, calls: list[Call]) -> None:
        for callback, arguments in calls:
            try:
                callback(*arguments)
            except Exception as error:
                self._loop.call_exception_handler({"message": "a call from a thread failed", "exception": error})
