"""Runs: those that this user has going on this machine, of any checkout, in any folder and on any ports.

A run is found by its launcher, which keeps the lock of the run's folder open for as long as it lives. So no run has to
be registered anywhere, and nothing that a killed one left behind is taken for a run.
"""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.local.run_dir import LOCK, RunDir

LAUNCHER = ("-m", "deploy.local")  # what stands in its command line


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is up, starting or stopping."""

    launcher: psutil.Process
    folder: Path  # without symbolic links
    address: str  # host:port of its gateway; empty while that is not up

    @property
    def port(self) -> str:
        """Of its gateway; empty while that is not up."""
        return self.address.rpartition(":")[2]


def runs() -> list[Run]:
    """All of them, by folder."""
    found = [run for process in psutil.process_iter() if (run := _run_of(process))]
    return sorted(found, key=lambda run: run.folder)


def run_in(folder: Path, found: Sequence[Run]) -> Run | None:
    """The one that has this folder."""
    return next((run for run in found if run.folder == folder.resolve()), None)


def absence(folder: Path) -> str:
    """Says that no run is up in a folder, and how the last one ended if it was killed."""
    killed = ": the last one was killed, and what it had started ended with it" if RunDir(folder).left_behind() else ""
    return f"no run is up in {folder}{killed}"


def _run_of(process: psutil.Process) -> Run | None:
    """The run that the process is the launcher of, if it is one.

    The pid in the lock tells it from a second launcher that is about to be refused, and from a copy of it that is about
    to become one of its programs.
    """
    try:
        if process.uids().real != os.getuid() or LAUNCHER not in itertools.pairwise(process.cmdline()):
            return None
        folders = [Path(file.path).parent for file in process.open_files() if Path(file.path).name == LOCK]
    except psutil.Error:  # it has ended
        return None
    return next((_run(process, RunDir(folder)) for folder in folders if RunDir(folder).holder() == process.pid), None)


def _run(launcher: psutil.Process, run_dir: RunDir) -> Run:
    addresses = (process.address for process in run_dir.processes() if process.component == "gateway")
    return Run(launcher, run_dir.path, next(addresses, ""))
