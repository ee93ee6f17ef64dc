"""Leaving: ends the waits of all streams for their next message when the instance goes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar

from services.kit.errors import Draining

Message = TypeVar("Message")


class Leaving:
    """One for all streams of a process. A wait costs no task of its own: most streams do nothing but wait."""

    def __init__(self) -> None:
        self._left = False
        self._waiting: set[asyncio.Task[Any]] = set()
        self._interrupted: set[asyncio.Task[Any]] = set()

    def leave(self) -> None:
        """From now on no stream gets a further message."""
        self._left = True
        for task in self._waiting - self._interrupted:
            self._interrupted.add(task)
            task.cancel()

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
        task = asyncio.current_task()
        assert task is not None
        if self._left:
            raise _draining()
        self._waiting.add(task)
        try:
            return await anext(messages, None)
        except asyncio.CancelledError:
            if task in self._interrupted and not task.uncancel():
                raise _draining() from None
            raise
        finally:
            self._waiting.discard(task)
            self._interrupted.discard(task)


def _draining() -> Draining:
    return Draining("this instance is leaving: the stream goes on at another one")
