"""Room: how much of one caller's stream is kept until it has been answered."""

import asyncio

OVERHEAD = 8192  # bytes that a request costs besides its own: its message, its task


class Room:
    """Takes messages as long as those that were not given back yet take less than `limit` bytes together."""

    def __init__(self, limit: int) -> None:
        self._limit, self._taken = limit, 0
        self._given = asyncio.Event()

    async def take(self, data: bytes) -> None:
        """Waits until some room is left, and takes what the message needs, which may be more. For one task alone."""
        while self._taken >= self._limit:
            self._given.clear()
            await self._given.wait()
        self._taken += len(data) + OVERHEAD

    def give(self, data: bytes) -> None:
        """The message has been answered."""
        self._taken -= len(data) + OVERHEAD
        self._given.set()
