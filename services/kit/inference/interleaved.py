"""interleaved: items of a stream that have one answer each, in order, and items that have several, as they come."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from services.kit.inference.in_order import in_order

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class _Ended:
    """What comes after the last answer."""

    error: Exception | None = None


async def interleaved(
    items: AsyncIterator[In],
    one: Callable[[In], Awaitable[Out]],
    several: Callable[[In], AsyncGenerator[Out, None] | None],
    window: int,
) -> AsyncGenerator[Out, None]:
    """Answers to all items; those with one answer keep their order among themselves.

    What ends `items` early is raised after the answers to the items before it; what ends the answers to an item that
    has several, at once. Leaving cancels all that is in work.

    Args:
        several: the answers to an item that has several, else None.
        window: items of either kind in work at once.
    """
    ready: asyncio.Queue[Out | _Ended] = asyncio.Queue(window)
    places = asyncio.Semaphore(window)
    working: set[asyncio.Task[None]] = set()

    async def pass_on(answers: AsyncGenerator[Out, None]) -> None:
        try:
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    await ready.put(answer)
        except Exception as error:
            await ready.put(_Ended(error))
        places.release()

    async def singles() -> AsyncIterator[In]:
        async for item in items:
            answers = several(item)
            if answers is None:
                yield item
                continue
            await places.acquire()
            working.add(task := asyncio.create_task(pass_on(answers)))
            task.add_done_callback(working.discard)

    async def work() -> None:
        end = _Ended()
        try:
            async with contextlib.aclosing(in_order(singles(), one, window)) as answers:
                async for answer in answers:
                    await ready.put(answer)
        except Exception as error:
            end = _Ended(error)
        await asyncio.gather(*working, return_exceptions=True)
        await ready.put(end)

    main = asyncio.create_task(work())
    try:
        while not isinstance(answer := await ready.get(), _Ended):
            yield answer
        if answer.error is not None:
            raise answer.error
    finally:
        for task in (main, *working):
            task.cancel()
        await asyncio.gather(main, *working, return_exceptions=True)
