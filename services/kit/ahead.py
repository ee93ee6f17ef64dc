"""ahead: an iterator that works on while its taker is busy with something else."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TypeVar

from services.kit.background import told_to_end

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Ended:
    """What comes after the last item."""

    error: BaseException | None = None


async def ahead(items: AsyncGenerator[T, None], size: int) -> AsyncGenerator[T, None]:
    """The same items in the same order, of which at most `size` wait to be taken.

    What ends `items` early is raised after the items before it. Leaving closes `items`.
    """
    ready: asyncio.Queue[T | _Ended] = asyncio.Queue(size)

    async def work() -> None:
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    await ready.put(item)
        except asyncio.CancelledError as error:
            if told_to_end():
                raise
            await ready.put(_Ended(error))
        except Exception as error:
            await ready.put(_Ended(error))
        else:
            await ready.put(_Ended())

    working = asyncio.create_task(work())
    try:
        while not isinstance(item := await ready.get(), _Ended):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
