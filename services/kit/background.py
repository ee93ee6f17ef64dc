"""Background work that goes on, whatever goes wrong in it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
PAUSE_S = 1.0


def told_to_end() -> bool:
    """Whether the current task was cancelled. Else its CancelledError is that of something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def until_done(
    name: str, work: Callable[[], Awaitable[T]], *, pause_s: float = PAUSE_S, sleep: Sleep = asyncio.sleep
) -> T:
    """What `work` returns. An exception that it did not expect is logged, and after a pause it begins again.

    Args:
        name: of the work, for the log.
        pause_s: seconds.
    """
    while True:
        try:
            return await work()
        except asyncio.CancelledError as error:
            if told_to_end():
                raise
            _log(name, error)
        except Exception as error:
            _log(name, error)
        await sleep(pause_s)


async def forever(
    name: str, work: Callable[[], Awaitable[object]], *, pause_s: float = PAUSE_S, sleep: Sleep = asyncio.sleep
) -> None:
    """Does `work`, which waits by itself, again and again until the task is cancelled; see `until_done`."""
    while True:
        await until_done(name, work, pause_s=pause_s, sleep=sleep)


def _log(name: str, error: BaseException) -> None:
    structlog.get_logger().error("background_work_failed", work=name, exc_info=error)
