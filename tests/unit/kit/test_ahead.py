"""An iterator that works ahead: in order, not too far, and over when its taker is."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from services.kit.ahead import ahead


class Source:
    """Numbers, and what became of them."""

    def __init__(self, count: int, error: BaseException | None = None) -> None:
        self._count, self._error = count, error
        self.given, self.closed = 0, False

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._count):
                self.given += 1
                yield number
            if self._error is not None:
                raise self._error
        finally:
            await asyncio.sleep(0)  # closing may take more than a turn of the loop
            self.closed = True


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("size", [1, 2, 7])
async def test_the_items_are_the_same_in_the_same_order(count: int, size: int) -> None:
    source = Source(count)
    assert [number async for number in ahead(source.items(), size)] == list(range(count))
    assert source.closed
    assert len(asyncio.all_tasks()) == 1


async def test_it_works_ahead_up_to_its_size_and_no_further() -> None:
    source = Source(10)
    async with contextlib.aclosing(ahead(source.items(), 2)) as items:
        assert await anext(items) == 0
        await settled()
        assert source.given == 4  # one taken, two that wait, one at hand
        assert await anext(items) == 1
        await settled()
        assert source.given == 5


async def test_nothing_begins_before_the_first_item_is_wanted() -> None:
    source = Source(10)
    items = ahead(source.items(), 2)
    await settled()
    assert source.given == 0
    await items.aclose()
    assert len(asyncio.all_tasks()) == 1


async def test_what_ends_the_items_early_comes_after_the_items_before_it() -> None:
    source = Source(3, ZeroDivisionError())
    items = ahead(source.items(), 5)
    assert await anext(items) == 0
    await settled()
    assert source.closed  # the failure is known, and waits for its place
    assert [await anext(items) for _ in range(2)] == [1, 2]
    with pytest.raises(ZeroDivisionError):
        await anext(items)
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancellation_that_was_not_meant_for_it_is_passed_on_and_hangs_nobody() -> None:
    items = ahead(Source(2, asyncio.CancelledError()).items(), 2)
    assert [await anext(items) for _ in range(2)] == [0, 1]
    with pytest.raises(asyncio.CancelledError):
        await anext(items)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("taken", [1, 2, 5])
async def test_leaving_closes_the_items_and_leaves_no_task(taken: int) -> None:
    source = Source(10)
    async with contextlib.aclosing(ahead(source.items(), 2)) as items:
        for _ in range(taken):
            await anext(items)
    assert source.closed
    assert source.given <= taken + 3
    assert len(asyncio.all_tasks()) == 1


async def test_a_taker_that_is_cancelled_closes_the_items() -> None:
    closed = asyncio.Event()

    async def silent() -> AsyncGenerator[int, None]:
        try:
            await asyncio.Event().wait()
            yield 0
        finally:
            closed.set()

    async def take() -> None:
        async with contextlib.aclosing(ahead(silent(), 2)) as items:
            await anext(items)

    task = asyncio.create_task(take())
    await settled()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
    assert len(asyncio.all_tasks()) == 1


async def test_two_of_them_in_a_row_end_together() -> None:
    source = Source(100)

    async def doubled(numbers: AsyncGenerator[int, None]) -> AsyncGenerator[int, None]:
        async with contextlib.aclosing(numbers):
            async for number in numbers:
                yield 2 * number

    async with contextlib.aclosing(ahead(doubled(ahead(source.items(), 2)), 2)) as items:
        assert [await anext(items) for _ in range(3)] == [0, 2, 4]
    assert source.closed
    assert len(asyncio.all_tasks()) == 1
