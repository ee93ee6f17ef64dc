import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from services.kit.inference.interleaved import interleaved

WINDOW = 4


async def one(item: int) -> str:
    return str(item)


async def twice(item: int) -> AsyncGenerator[str, None]:
    for part in "ab":
        yield f"{item}{part}"


def odd_ones(item: int) -> AsyncGenerator[str, None] | None:
    return twice(item) if item % 2 else None


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_every_item_gets_all_of_its_answers_in_its_order() -> None:
    found = [answer async for answer in interleaved(numbers(20), one, odd_ones, WINDOW)]
    assert [answer for answer in found if answer.isdigit()] == [str(number) for number in range(0, 20, 2)]
    for number in range(1, 20, 2):
        own = [answer for answer in found if answer[:-1] == str(number) and not answer.isdigit()]
        assert own == [f"{number}a", f"{number}b"]


async def test_a_stream_that_stays_open_keeps_nothing_of_what_was_answered() -> None:
    tasks: list[weakref.ref[asyncio.Task[None]]] = []
    last = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        async for number in numbers(50):
            yield number
        await last.wait()

    async def several(item: int) -> AsyncGenerator[str, None]:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(weakref.ref(task))
        async for answer in twice(item):
            yield answer

    async with contextlib.aclosing(interleaved(items(), one, several, WINDOW)) as answers:
        for _ in range(100):
            await anext(answers)
        gc.collect()
        assert sum(task() is not None for task in tasks) <= WINDOW
        last.set()


async def test_an_item_whose_answers_break_ends_the_stream_and_leaves_nobody_waiting() -> None:
    async def broken(item: int) -> AsyncGenerator[str, None]:
        yield "first"
        raise RuntimeError(f"item {item}")

    async def all_answers() -> list[str]:
        return [answer async for answer in interleaved(numbers(1), one, broken, WINDOW)]

    with pytest.raises(RuntimeError, match="item 0"):
        await asyncio.wait_for(all_answers(), 10)


async def test_the_stream_ends_at_once_although_more_items_may_come_and_others_are_in_work() -> None:
    left = list[int]()

    async def items() -> AsyncIterator[int]:
        yield 0
        yield 1
        await asyncio.Event().wait()

    async def several(item: int) -> AsyncGenerator[str, None]:
        yield "first"
        if item:
            raise RuntimeError("no more")
        try:
            await asyncio.Event().wait()
        finally:
            left.append(item)

    async with asyncio.timeout(10):
        answers = interleaved(items(), one, several, WINDOW)
        assert [await anext(answers) for _ in range(2)] == ["first", "first"]
        with pytest.raises(RuntimeError, match="no more"):
            await anext(answers)
    assert left == [0]
