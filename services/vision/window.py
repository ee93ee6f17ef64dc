"""Many items of one stream side by side, within a bound."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


async def side_by_side(
    items: AsyncIterator[In], work: Callable[[In], Coroutine[Any, Any, Out]], limit: int
) -> AsyncGenerator[Out, None]:
    """What `work` gives for each item, as soon as it is there, in any order.

    At most `limit` items are in the window: read, and their results not yet taken. Until one has left it, no further
    item is read, which is how the caller learns to wait. Closing the generator cancels all work at hand.

    Raises:
        Exception: what reading an item raised, or `work`; everything else at hand is cancelled.
    """
    free = asyncio.Semaphore(limit)
    finished: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    tasks: set[asyncio.Task[Any]] = set()

    def begin(coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(finished.put_nowait)
        return task

    async def read() -> None:
        await free.acquire()
        async for item in items:
            begin(work(item))
            await free.acquire()

    reader = begin(read())
    try:
        while tasks:
            task = await finished.get()
            tasks.remove(task)
            result = task.result()
            if task is not reader:
                yield result
                free.release()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
