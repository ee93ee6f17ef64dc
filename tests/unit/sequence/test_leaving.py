"""When the instance leaves, no stream waits for a further message, and none that was read is lost."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from services.kit.ahead import ahead
from services.kit.errors import Draining
from services.sequence.leaving import Leaving


class Caller:
    """Messages that come when the test sends them; None is the last one."""

    def __init__(self) -> None:
        self._sent: asyncio.Queue[int | None] = asyncio.Queue()
        self.closed = False

    def send(self, *messages: int | None) -> None:
        for message in messages:
            self._sent.put_nowait(message)

    async def messages(self) -> AsyncGenerator[int, None]:
        try:
            while (message := await self._sent.get()) is not None:
                yield message
        finally:
            self.closed = True


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_messages_pass_in_order_until_the_caller_ends() -> None:
    caller, leaving = Caller(), Leaving()
    caller.send(2, 3, None)
    assert [message async for message in leaving.messages(1, caller.messages())] == [1, 2, 3]
    caller.send(None)
    assert await leaving.next(caller.messages()) is None


async def test_leaving_ends_every_wait_at_once() -> None:
    leaving, callers = Leaving(), [Caller() for _ in range(50)]
    waits = [asyncio.create_task(leaving.next(caller.messages())) for caller in callers]
    await settled()
    leaving.leave()
    results = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 5)
    assert {type(result) for result in results} == {Draining}
    assert all(caller.closed for caller in callers)


async def test_nobody_begins_to_wait_after_that() -> None:
    leaving, caller = Leaving(), Caller()
    leaving.leave()
    caller.send(1)
    with pytest.raises(Draining):
        await leaving.next(caller.messages())


async def test_what_was_read_before_is_still_given_and_then_it_ends() -> None:
    leaving, caller = Leaving(), Caller()
    caller.send(2, 3)
    messages = ahead(leaving.messages(1, caller.messages()), 5)
    assert await anext(messages) == 1
    await settled()  # the others have been read
    leaving.leave()
    assert [await anext(messages) for _ in range(2)] == [2, 3]
    with pytest.raises(Draining):
        await anext(messages)


async def test_a_caller_that_goes_first_is_not_waited_for() -> None:
    leaving, caller = Leaving(), Caller()
    waiting = asyncio.create_task(leaving.next(caller.messages()))
    await settled()
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()
    leaving.leave()
    await settled()
    assert len(asyncio.all_tasks()) == 1


async def test_a_timeout_of_the_messages_own_is_not_taken_for_the_instances() -> None:
    async def impatient() -> AsyncGenerator[int, None]:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        yield 1

    with pytest.raises(TimeoutError):
        await Leaving().next(impatient())
