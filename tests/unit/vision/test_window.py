"""Many items side by side: bounded, in any order, and all of it ends with the stream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from services.vision.window import side_by_side


class Bench:
    """Items that are worked on until they are let go, and a count of those that were read."""

    def __init__(self, count: int) -> None:
        self.read = 0
        self.cancelled: list[int] = []
        self._count = count
        self.go = [asyncio.Event() for _ in range(count)]

    async def items(self) -> AsyncIterator[int]:
        for number in range(self._count):
            self.read += 1
            yield number

    async def work(self, number: int) -> int:
        try:
            await self.go[number].wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        return number


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_results_come_as_they_finish() -> None:
    bench = Bench(3)
    results = side_by_side(bench.items(), bench.work, 3)
    got = []
    for number in (2, 0, 1):
        bench.go[number].set()
        got.append(await anext(results))
    assert got == [2, 0, 1]
    assert await anext(results, None) is None


async def test_no_item_is_read_beyond_the_window_until_a_result_was_taken() -> None:
    bench = Bench(10)
    results = side_by_side(bench.items(), bench.work, 4)
    for event in bench.go:
        event.set()
    first = asyncio.create_task(anext(results))
    await settled()
    assert (await first, bench.read) == (0, 4)
    await settled()
    assert bench.read == 4  # results that nobody takes stop the reading
    rest = [result async for result in results]
    assert sorted(rest) == list(range(1, 10))


async def test_an_empty_stream_ends() -> None:
    bench = Bench(0)
    assert [result async for result in side_by_side(bench.items(), bench.work, 2)] == []


async def test_closing_cancels_all_work_at_hand() -> None:
    bench = Bench(5)
    async with contextlib.aclosing(side_by_side(bench.items(), bench.work, 3)) as results:
        bench.go[1].set()
        assert await anext(results) == 1
        await settled()
    assert sorted(bench.cancelled) == [0, 2]


async def test_a_reader_that_is_cancelled_cancels_all_work_at_hand() -> None:
    bench = Bench(5)

    async def consume() -> None:
        async with contextlib.aclosing(side_by_side(bench.items(), bench.work, 3)) as results:
            async for _ in results:
                pass

    task = asyncio.create_task(consume())
    await settled()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert sorted(bench.cancelled) == [0, 1, 2]


async def test_a_stream_that_breaks_off_fails_with_its_own_error_and_cancels_the_work() -> None:
    bench = Bench(2)

    async def broken() -> AsyncIterator[int]:
        yield 0
        yield 1
        raise ValueError("garbage")

    with pytest.raises(ValueError, match="garbage"):
        await anext(side_by_side(broken(), bench.work, 5))
    assert sorted(bench.cancelled) == [0, 1]
