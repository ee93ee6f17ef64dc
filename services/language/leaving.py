"""Leaving: ends the answers that are under way when the instance goes, so that they go on elsewhere."""

import asyncio
import contextlib
from collections.abc import Iterator

from services.kit.errors import Draining


class Leaving:
    """One for all answers of a process."""

    def __init__(self) -> None:
        self._left = False
        self._watching: set[asyncio.Event] = set()

    def leave(self) -> None:
        """From now on `check` raises."""
        self._left = True
        for event in self._watching:
            event.set()

    @contextlib.contextmanager
    def watching(self, event: asyncio.Event) -> Iterator[None]:
        """Within it the event is set when the instance leaves."""
        self._watching.add(event)
        try:
            yield
        finally:
            self._watching.discard(event)

    @property
    def left(self) -> bool:
        """Whether `check` raises."""
        return self._left

    def check(self) -> None:
        """Raises Draining once the instance leaves."""
        if self._left:
            raise Draining("this instance is leaving: another one can go on with the text")
