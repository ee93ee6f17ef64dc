"""Courier: carries calls from a thread to the event loop, in order, at little cost to that thread."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

Call = tuple[Callable[..., None], tuple[Any, ...]]


class Courier:
    """A thread between the two.

    Whoever wakes an event loop gives up the interpreter to do it, and gets it back when the loop has done what it was
    woken for. The scheduler's thread has a run to start before; so this one does the waking while the run goes on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
        self._thread.start()

    def tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Calls it in the event loop soon."""
        self._calls.put((callback, arguments))

    def close(self) -> None:
        """Returns when the loop knows everything that was told."""
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            callback, arguments = call
            self._loop.call_soon_threadsafe(callback, *arguments)
