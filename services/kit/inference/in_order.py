"""in_order: many items of a stream in work at once, their answers in the order in which the items came."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


async def in_order(
    items: AsyncIterator[In], answer: Callable[[In], Awaitable[Out]], window: int
) -> AsyncGenerator[Out, None]:
    """Answers to all items. At most `window` of them are read and not yet answered to the taker of this iterator.

    What ends `items` early is raised after the answers to the items before it. Leaving cancels all that is in work.
    """
    answers: asyncio.Queue[asyncio.Task[Out] | None] = asyncio.Queue()
    places = asyncio.Semaphore(window)
    started: set[asyncio.Task[Out]] = set()

    async def call(item: In) -> Out:
        return await answer(item)

    async def read() -> None:
        try:
            await places.acquire()
            async for item in items:
                task = asyncio.create_task(call(item))
                started.add(task)
                answers.put_nowait(task)
                await places.acquire()
        finally:
            answers.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await answers.get()) is not None:
            result = await task
            started.discard(task)
            yield result
            places.release()
        await reader
    finally:
        for left in (reader, *started):
            left.cancel()
        await asyncio.gather(reader, *started, return_exceptions=True)
