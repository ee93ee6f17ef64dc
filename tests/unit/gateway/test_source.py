"""The messages of a streaming caller reach one attempt, and none is lost between two."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.source import Source
from services.kit.errors import DeadlineExpired


class Caller:
    """Sends what the test says."""

    def __init__(self, *messages: bytes) -> None:
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        for message in messages:
            self.messages.put_nowait(message)

    async def stream(self) -> AsyncIterator[bytes]:
        """The messages up to None."""
        while (message := await self.messages.get()) is not None:
            yield message


async def turns() -> None:
    """Everything that can go on goes on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_attempt_gets_every_message() -> None:
    caller = Caller(b"1", b"2", b"3")
    caller.messages.put_nowait(None)
    source = Source(caller.stream())
    assert await source.first() == b"1"
    assert not source.moved
    assert [message async for message in source.attempt()] == [b"1", b"2", b"3"]
    assert source.moved


async def test_a_message_that_comes_while_an_older_attempt_waits_for_it_is_the_newer_ones() -> None:
    caller = Caller(b"1")
    source = Source(caller.stream())
    older = source.attempt()
    assert await anext(older) == b"1"
    waiting = asyncio.ensure_future(anext(older, None))
    await turns()
    newer = source.attempt()
    caller.messages.put_nowait(b"2")
    caller.messages.put_nowait(b"3")
    await turns()
    assert await waiting is None
    assert not source.moved
    assert [await anext(newer) for _ in range(3)] == [b"1", b"2", b"3"]


async def test_an_attempt_that_ends_while_it_reads_takes_nothing_with_it() -> None:
    caller = Caller(b"1")
    source = Source(caller.stream())
    older = source.attempt()
    assert await anext(older) == b"1"
    waiting = asyncio.ensure_future(anext(older, None))
    await turns()
    waiting.cancel()
    await turns()
    caller.messages.put_nowait(b"2")
    newer = source.attempt()
    assert [await anext(newer) for _ in range(2)] == [b"1", b"2"]


async def test_a_caller_without_messages_is_an_empty_stream() -> None:
    caller = Caller()
    caller.messages.put_nowait(None)
    source = Source(caller.stream())
    assert await source.first() is None
    assert [message async for message in source.attempt()] == []


async def test_after_the_first_answer_messages_go_on_all_the_same() -> None:
    caller = Caller(b"1", b"2", b"3")
    source = Source(caller.stream())
    messages = source.attempt()
    assert await anext(messages) == b"1"
    source.answered = True
    assert [await anext(messages) for _ in range(2)] == [b"2", b"3"]


async def test_what_the_callers_stream_ends_with_is_remembered() -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield b"1"
        raise DeadlineExpired("no message came")

    source = Source(silent())
    with pytest.raises(DeadlineExpired):
        assert [message async for message in source.attempt()]
    assert isinstance(source.failure, DeadlineExpired)


async def test_closing_ends_the_reading() -> None:
    source = Source(Caller(b"1").stream())
    messages = source.attempt()
    await anext(messages)
    waiting = asyncio.ensure_future(anext(messages, None))
    await turns()
    source.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
