"""Leaving: ends the waits of all streams for their next message when the instance goes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from services.kit.errors import Draining

Message = TypeVar("Message")


class Leaving:
    """One for all streams of a process. A wait costs no task of its own: most streams do nothing but wait."""

    def __init__(self) -> None:
        self._left = False
        self._waits: set[asyncio.Timeout] = set()

    def leave(self) -> None:
        """From now on no stream gets a further message."""
        self._left = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    async def messages(self, first: Message, others: AsyncIterator[Message]) -> AsyncGenerator[Message, None]:
        """The first message and all that follow.

        Raises:
            Draining: the instance is leaving.
        """
        message: Message | None = first
        while message is not None:
            yield message
            message = await self.next(others)

    async def next(self, messages: AsyncIterator[Message]) -> Message | None:
        """The stream's next message; None after its last one.

        Raises:
            Draining: the instance is leaving.
        """
        if self._left:
            raise _draining()
        try:
            async with asyncio.timeout(None) as wait:
                self._waits.add(wait)
                try:
                    return await anext(messages, None)
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            if not self._left:
                raise
            raise _draining() from None


def _draining() -> Draining:
    return Draining("this instance is leaving: the stream goes on at another one")
