"""Background work goes on after what it did not expect, and ends when it is told to."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator

import pytest
from structlog.testing import capture_logs

from services.kit.background import forever, told_to_end, until_done


def failing(*errors: BaseException) -> Callable[[], Awaitable[str]]:
    """Work that fails so, each time otherwise, and is done then."""
    left: Iterator[BaseException] = iter(errors)

    async def work() -> str:
        for error in left:
            raise error
        return "done"

    return work


async def no_sleep(seconds: float) -> None:
    """The time passes at once."""


@pytest.mark.parametrize("error", [ZeroDivisionError("odd"), asyncio.CancelledError()], ids=["bug", "stray cancel"])
async def test_work_that_fails_begins_again_and_the_log_has_the_traceback(error: BaseException) -> None:
    with capture_logs() as logs:
        assert await until_done("count", failing(error, error), sleep=no_sleep) == "done"
    assert [(entry["log_level"], entry["work"], entry["exc_info"]) for entry in logs] == [("error", "count", error)] * 2


async def test_there_is_a_pause_after_a_failure() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with capture_logs():
        await until_done("count", failing(ValueError(), ValueError()), pause_s=3, sleep=sleep)
    assert slept == [3, 3]


async def test_what_goes_on_forever_ends_when_it_is_cancelled() -> None:
    rounds = asyncio.Queue[int]()
    numbers = itertools.count()

    async def work() -> None:
        rounds.put_nowait(number := next(numbers))
        await asyncio.sleep(0)
        if number == 2:
            raise ValueError

    with capture_logs() as logs:
        task = asyncio.create_task(forever("count", work, sleep=no_sleep))
        assert [await rounds.get() for _ in range(5)] == [0, 1, 2, 3, 4]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(logs) == 1


async def test_a_cancellation_of_the_task_is_told_from_one_of_what_it_waits_for() -> None:
    heard: list[bool] = []

    async def wait(future: "asyncio.Future[None]") -> None:
        try:
            await future
        except asyncio.CancelledError:
            heard.append(told_to_end())

    for cancel_task in (True, False):
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(wait(future))
        await asyncio.sleep(0)
        (task if cancel_task else future).cancel()
        await asyncio.wait((task,))
    assert heard == [True, False]
