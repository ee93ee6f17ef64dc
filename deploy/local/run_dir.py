"""RunDir: the folder of one run: its lock, its log files and run.json, which says what runs."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.kit.errors import StartupError

# A start time is known to a clock tick, and moves by the correction when the machine's clock is set.
START_TIME_TOLERANCE_S = 2.0
LOCK, RECORD = "lock", "run.json"  # in the folder


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a run, as run.json says."""

    component: str
    instance: str
    pid: int
    started: float  # seconds since the epoch
    address: str  # where it answers; empty while it is starting
    log_file: str

    def alive(self) -> bool:
        """Whether that very process still runs, and not another one under its pid."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < START_TIME_TOLERANCE_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


class RunDir:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path, self.logs = path, path / "logs"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Creates the folder and holds it until the block ends; log files of the last run become NAME.log.1.

        Raises:
            StartupError: another launcher holds it, or it cannot be written.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            lock = (self.path / LOCK).open("a+")
        except OSError as error:
            raise StartupError(
                f"cannot write the run directory {self.path}: {error.strerror}",
                hint="name another one with TRIVIUM_RUN_DIR=...",
            ) from error
        with lock:
            self._lock(lock.fileno())
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            self._clear()
            self.write([])  # what a killed launcher leaves behind, however early
            try:
                yield
            finally:
                (self.path / RECORD).unlink(missing_ok=True)

    def log_file(self, instance: str) -> Path:
        """Where the output of an instance goes."""
        return self.logs / f"{instance}.log"

    def write(self, processes: Sequence[Process]) -> None:
        """Replaces run.json in one step: a reader sees the old one or the new one."""
        self.path.mkdir(parents=True, exist_ok=True)  # someone may have tidied up
        content = {"processes": [dataclasses.asdict(process) for process in processes]}
        new = self.path / "run.json.new"
        new.write_text(json.dumps(content, indent=1), "utf-8")
        new.replace(self.path / RECORD)

    def processes(self) -> list[Process]:
        """What runs now; empty where there is no run, or only what a killed one left behind."""
        try:
            content = json.loads((self.path / RECORD).read_text("utf-8"))
            found = [Process(**entry) for entry in content["processes"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return [process for process in found if process.alive()]

    def holder(self) -> int | None:
        """The pid of the launcher that holds the folder, or was the last to hold it; None where none ever did."""
        try:
            return int((self.path / LOCK).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def left_behind(self) -> bool:
        """Whether run.json is there: without a launcher, the last one was killed."""
        return (self.path / RECORD).exists()

    def _lock(self, descriptor: int) -> None:
        """The kernel lets go of this lock when the launcher ends, however that happens."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self.holder() or "unknown"
            raise StartupError(
                f"a run is already up in {self.path} (launcher: process {holder})",
                hint=f"stop it (`make stop`, or kill {holder}), or start another one beside it with other ports: "
                "TRIVIUM_GATEWAY__GRPC_PORT=... TRIVIUM_GATEWAY__HTTP_PORT=...",
            ) from None

    def _clear(self) -> None:
        for log in self.logs.glob("*.log"):
            log.replace(log.with_suffix(".log.1"))
        shutil.rmtree(self.path / "consul", ignore_errors=True)
