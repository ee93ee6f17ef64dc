"""Child: one running process of a Program, with its output in a log file."""

import asyncio
import contextlib
import datetime
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil

LEASH = Path(__file__).with_name("leash.py")


@dataclass(frozen=True, slots=True)
class Program:
    """What is run under one instance name."""

    component: str  # consul, gateway or the name of a service
    instance: str
    command: tuple[str, ...]  # the first word is the path of an executable
    environment: Mapping[str, str]  # all of it


class Child:
    """A process that dies with this one. Its session is its own, so that a terminal's Ctrl-C does not reach it."""

    def __init__(self, process: asyncio.subprocess.Process, log_file: Path, log_start: int) -> None:
        self._process, self._log_file, self._log_start = process, log_file, log_start
        self.pid = process.pid
        self.started = _create_time(process.pid)  # seconds since the epoch; tells it from a later process of this pid

    @classmethod
    async def spawn(cls, program: Program, log_file: Path) -> "Child":
        """Starts the program; its output is appended to the log file, under a line that says what was started.

        To be called in the main thread: Linux takes the end of the thread that forked for the end of the parent.
        """
        with _open_log(log_file, program) as log:
            start = log.tell()  # before the child shares, and moves, the position
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *program.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=program.environment,
                start_new_session=True,
            )
            return cls(process, log_file, start)

    async def wait(self) -> int:
        """The exit code once it has ended; of a signal, its negative number."""
        return await self._process.wait()

    def terminate(self) -> None:
        """Asks it to end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """Ends it, and what it may have started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def last_lines(self, count: int) -> list[str]:
        """The last lines of what it has printed so far; none if someone has removed the log file."""
        return last_lines(self._log_file, count, since=self._log_start)


def last_lines(log_file: Path, count: int, since: int) -> list[str]:
    """The last lines that stand in the file after byte `since`; all of it if it was emptied meanwhile."""
    try:
        with log_file.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(since if since <= end else 0, end - 16 * 1024))
            return log.read().decode("utf-8", "replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def _open_log(log_file: Path, program: Program) -> BinaryIO:
    """The log file, opened to append, with a line that says what is being started."""
    log_file.parent.mkdir(parents=True, exist_ok=True)  # someone may have tidied up
    log = log_file.open("ab")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    log.write(f"--- {now} starting {program.instance}: {' '.join(program.command)}\n".encode())
    log.flush()
    return log


def _create_time(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:  # ended within a millisecond
        return time.time()
