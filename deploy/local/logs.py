"""Log files that do not fill the disk: each one is set aside when it is large, at most once more beside itself."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

LARGEST_BYTES = 50 * 1024 * 1024
LOOK_S = 2.0


@contextlib.asynccontextmanager
async def kept_bounded(folder: Path) -> AsyncIterator[None]:
    """Looks after the folder's log files until the block ends."""
    task = asyncio.create_task(_keep_bounded(folder))
    try:
        yield
    finally:
        task.cancel()


async def _keep_bounded(folder: Path) -> None:
    while True:
        await asyncio.to_thread(bound, folder)
        await asyncio.sleep(LOOK_S)


def bound(folder: Path, largest_bytes: int = LARGEST_BYTES) -> None:
    """Moves the content of every NAME.log that is larger into NAME.log.1, in place of what that held.

    The processes that write keep the file open, to append: so it is emptied and not renamed. A line that is written
    between the copy and that is lost.
    """
    for log in folder.glob("*.log"):
        with contextlib.suppress(OSError):  # someone may have tidied up, or taken our rights
            if log.stat().st_size > largest_bytes:
                _set_aside(log)


def _set_aside(log: Path) -> None:
    """Empties the file in any case: where the copy finds no room on the disk, the processes need it more."""
    aside = log.with_suffix(".log.1")
    try:
        shutil.copyfile(log, aside)
    except OSError:
        aside.unlink(missing_ok=True)
    finally:
        os.truncate(log, 0)
