"""Admission: how many calls a process works on at once, and that a leaving one takes no new ones."""

import asyncio
from collections.abc import Collection

from services.kit.call import Call
from services.kit.errors import Draining, Overloaded
from services.kit.hooks.base import Hook

# Health and reflection answer a full or leaving process too: they say so. They have a limit of their own.
PROBES = "/grpc."
MAX_PROBES = 256


class Admission(Hook):
    """Counts the calls in flight and refuses those over the limit (QUEUE_FULL) or after `close` (DRAINING).

    Args:
        max_calls: in flight, without live streams.
        max_streams: live streams in flight.
        live: the methods of those, which last long and are mostly silent.
    """

    def __init__(self, max_calls: int, max_streams: int = 0, live: Collection[str] = ()) -> None:
        self._max_calls, self._max_streams, self._live = max_calls, max_streams, frozenset(live)
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0  # calls, live streams among them
        self.streams = 0  # live ones in flight
        self._probes = 0

    def start(self, call: Call) -> None:
        if call.method.startswith(PROBES):
            _check(self._probes, MAX_PROBES, "probes")
            self._probes += 1
            return
        if self._closed:
            raise Draining("this instance is leaving and accepts no new calls")
        if call.method in self._live:
            _check(self.streams, self._max_streams, "live streams")
            self.streams += 1
        else:
            _check(self.in_flight - self.streams, self._max_calls, "calls")
        self.in_flight += 1
        self._idle.clear()

    def end(self, call: Call, error: BaseException | None) -> None:
        if call.method.startswith(PROBES):
            self._probes -= 1
            return
        self.in_flight -= 1
        self.streams -= call.method in self._live
        if self.in_flight == 0:
            self._idle.set()

    def close(self) -> None:
        """From now on new calls are refused; those in flight go on."""
        self._closed = True

    async def idle(self) -> None:
        """Returns when no call is in flight."""
        await self._idle.wait()


def _check(in_flight: int, limit: int, what: str) -> None:
    if in_flight >= limit:
        raise Overloaded(
            f"{in_flight} {what} are in flight and the limit is {limit}", limit=str(limit), value=str(in_flight)
        )
