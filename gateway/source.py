"""Source: the messages of a streaming caller, the first of which can be sent again to another instance."""

import asyncio
from collections.abc import AsyncIterator


class Source:
    """Hands the caller's messages to one attempt at a time.

    `moved` says whether an attempt has got more than the first message: then no other attempt can start afresh.
    `failure` is what reading from the caller ended with, if not with the caller's last message.
    """

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        self._messages = messages
        self._first: bytes | None = None
        self._reading: asyncio.Future[bytes | None] | None = None
        self._attempt: object = None
        self.answered = False  # set by the reader of answers: from then on there is no further attempt
        self.moved = False
        self.failure: Exception | None = None

    async def first(self) -> bytes | None:
        """The first message; None if the caller sends none."""
        attempt = self._attempt
        if self._first is None:
            message = await self._next(attempt)
            if attempt is self._attempt:
                self._first = message
        return self._first

    def attempt(self) -> AsyncIterator[bytes]:
        """The messages from the first one on, for a new attempt; an older one gets nothing from now on.

        The transport may leave the iterator of an attempt that has failed waiting for the caller's next message.
        """
        self._attempt = object()
        return self._hand_over(self._attempt)

    def close(self) -> None:
        """Nobody reads any more."""
        self._attempt = object()
        if self._reading is not None and not self._reading.cancel() and not self._reading.cancelled():
            self._reading.exception()

    async def _hand_over(self, attempt: object) -> AsyncIterator[bytes]:
        try:
            message = await self.first()
            while message is not None and attempt is self._attempt:
                yield message
                message = await self._next(attempt)
                self.moved = self.moved or (message is not None and attempt is self._attempt)
        except Exception as error:
            self.failure = error
            raise

    async def _next(self, attempt: object) -> bytes | None:
        """The caller's next message. One that an older attempt was waiting for is left for the newest."""
        if self.answered and self._reading is None:
            return await anext(self._messages, None)
        if self._reading is None:
            self._reading = asyncio.ensure_future(anext(self._messages, None))
        message = await asyncio.shield(self._reading)
        if attempt is not self._attempt:
            return None
        self._reading = None
        return message
