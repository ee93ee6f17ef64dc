"""Runs: found while their launchers live, wherever their folders are."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local.run_dir import Process, RunDir
from deploy.local.runs import Run, absence, run_in, runs

# Holds a run's folder as the launcher does, until its input ends.
HOLDS = """
import sys
from pathlib import Path
from deploy.local.run_dir import RunDir

run_dir = RunDir(Path(sys.argv[1]))
with run_dir.held():
    print("up", flush=True)
    sys.stdin.read()
"""


class Launcher(subprocess.Popen[str]):
    """A process that stands for one."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-c", HOLDS, str(folder), *arguments]
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.stdout is not None
        assert self.stdout.readline() == "up\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a run"


@pytest.fixture
def launcher(folder: Path) -> Iterator[Launcher]:
    with Launcher(folder, "-m", "deploy.local") as process:
        yield process


def gateway(address: str) -> Process:
    me = psutil.Process()
    return Process("gateway", "gateway", me.pid, me.create_time(), address, "gateway.log")


def test_a_run_is_found_by_its_launcher_with_the_address_of_its_gateway(launcher: Launcher, folder: Path) -> None:
    starting = run_in(folder, runs())
    RunDir(folder).write([gateway("127.0.0.1:9001")])
    up = run_in(folder, runs())
    assert starting == Run(psutil.Process(launcher.pid), folder, "")
    assert up == Run(psutil.Process(launcher.pid), folder, "127.0.0.1:9001")
    assert (starting.port, up.port) == ("", "9001")


def test_a_run_is_found_through_a_symbolic_link_to_its_folder(launcher: Launcher, folder: Path) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    assert run_in(link, runs()) is not None


def test_a_run_that_has_ended_is_none(launcher: Launcher, folder: Path) -> None:
    launcher.communicate()
    assert run_in(folder, runs()) is None
    assert absence(folder) == f"no run is up in {folder}"


def test_what_a_killed_run_left_is_no_run_and_is_named_as_that(launcher: Launcher, folder: Path) -> None:
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    assert run_in(folder, runs()) is None
    assert absence(folder).startswith(f"no run is up in {folder}: the last one was killed")


def test_only_the_launcher_that_holds_the_folder_counts(launcher: Launcher, folder: Path) -> None:
    (folder / "lock").write_text(str(os.getpid()))  # as for a second one, which has the lock open and did not get it
    assert run_in(folder, runs()) is None


def test_a_process_that_is_no_launcher_is_no_run(folder: Path) -> None:
    with Launcher(folder, "-m", "another.program"):
        assert run_in(folder, runs()) is None
