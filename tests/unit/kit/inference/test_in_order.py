import asyncio
from collections.abc import AsyncIterator

import pytest

from services.kit.inference.in_order import in_order


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_answers_come_in_the_order_of_the_items_while_many_are_in_work() -> None:
    gates = [asyncio.Event() for _ in range(5)]

    async def answer(number: int) -> int:
        await gates[number].wait()
        if number:
            gates[number - 1].set()  # the last one finishes first
        return number

    gates[4].set()
    assert [number async for number in in_order(numbers(5), answer, 8)] == [0, 1, 2, 3, 4]


async def test_no_more_than_the_window_is_read_before_answers_are_taken() -> None:
    read = 0

    async def counted() -> AsyncIterator[int]:
        nonlocal read
        async for number in numbers(100):
            read += 1
            yield number

    async def answer(number: int) -> int:
        return number

    answers = in_order(counted(), answer, 4)
    assert await anext(answers) == 0
    for _ in range(20):
        await asyncio.sleep(0)
    assert read == 4
    assert [number async for number in answers] == list(range(1, 100))


async def test_what_ends_the_items_is_raised_after_the_answers_before_it() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("the caller sent rubbish")

    async def answer(number: int) -> int:
        await asyncio.sleep(0)
        return number

    answers = in_order(broken(), answer, 4)
    assert await anext(answers) == 1
    with pytest.raises(ValueError, match="rubbish"):
        await anext(answers)


async def test_leaving_cancels_all_that_is_in_work() -> None:
    cancelled = []

    async def answer(number: int) -> int:
        try:
            await asyncio.sleep(3600 if number else 0)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    answers = in_order(numbers(3), answer, 8)
    assert await anext(answers) == 0
    await answers.aclose()
    assert sorted(cancelled) == [1, 2]
