"""Admission: how many calls a process works on at once, and that a leaving one takes no new ones."""

import asyncio

from services.kit.call import Call
from services.kit.errors import Draining, Overloaded
from services.kit.hooks.base import Hook

# Health and reflection answer a full or leaving process too: they say so.
ALWAYS_ADMITTED = "/grpc."


class Admission(Hook):
    """Counts the calls in flight and refuses those over the limit (QUEUE_FULL) or after `close` (DRAINING)."""

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0

    def start(self, call: Call) -> None:
        if call.method.startswith(ALWAYS_ADMITTED):
            return
        if self._closed:
            raise Draining("this instance is leaving and accepts no new calls")
        if self.in_flight >= self._max_calls:
            raise Overloaded(
                f"{self.in_flight} calls are in flight and the limit is {self._max_calls}",
                limit=str(self._max_calls),
                value=str(self.in_flight),
            )
        self.in_flight += 1
        self._idle.clear()

    def end(self, call: Call, error: BaseException | None) -> None:
        if call.method.startswith(ALWAYS_ADMITTED):
            return
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()

    def close(self) -> None:
        """From now on new calls are refused; those in flight go on."""
        self._closed = True

    async def idle(self) -> None:
        """Returns when no call is in flight."""
        await self._idle.wait()
