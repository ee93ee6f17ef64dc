"""Keeper and Supervisor: what ends is replaced, what is stopped is not."""

import asyncio
import io
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from deploy.local.child import Program
from deploy.local.progress import Progress
from deploy.local.run_dir import RunDir
from deploy.local.supervisor import Keeper, Supervisor, describe_exit, restart_delay_s

WAITS = "echo waiting; read -r line < fifo"
STUBBORN = "trap '' TERM; echo waiting; read -r line < fifo"


class Stage:
    """A supervisor whose programs are one-line shell scripts."""

    def __init__(self, folder: Path) -> None:
        os.mkfifo(folder / "fifo")
        self.folder, self.text = folder, io.StringIO()
        self.run_dir = RunDir(folder / "run dir")
        self.supervisor = Supervisor(self.run_dir, Progress(Console(file=self.text, soft_wrap=True)))

    def keep(self, script: str, instance: str = "vision-1") -> Keeper:
        command = ("/bin/sh", "-c", f"cd '{self.folder}'; {script}")
        return self.supervisor.keep(Program(instance.partition("-")[0], instance, command, dict(os.environ)))

    async def running(self, keeper: Keeper, other_than: int = 0) -> int:
        """The pid of the keeper's process, once it has said that it waits."""
        async with asyncio.timeout(10):
            while True:
                child = keeper.child
                if child and child.pid != other_than and child.last_lines(1) == ["waiting"]:
                    return child.pid
                await asyncio.sleep(0.01)

    async def said(self, pattern: str) -> str:
        async with asyncio.timeout(10):
            while True:
                if re.search(pattern, self.text.getvalue()):
                    return self.text.getvalue()
                await asyncio.sleep(0.01)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    await stage.supervisor.stop_all(((lambda program: True, 0),))


def test_only_failed_starts_are_delayed_each_time_longer_and_never_long() -> None:
    assert [restart_delay_s(failures) for failures in range(9)] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    assert restart_delay_s(10_000) == 5


def test_an_exit_is_described_in_words() -> None:
    assert describe_exit(0) == "ended with exit code 0"
    assert describe_exit(-signal.SIGKILL) == "was killed by SIGKILL"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_process_that_ends_is_replaced(stage: Stage, number: signal.Signals) -> None:
    keeper = stage.keep(WAITS)
    first = await stage.running(keeper)
    os.kill(first, number)
    second = await stage.running(keeper, other_than=first)
    assert [process.pid for process in stage.run_dir.processes()] == [second]


async def test_a_process_that_cannot_start_is_tried_again_and_its_last_words_are_shown(stage: Stage) -> None:
    keeper = stage.keep("echo error: no bundle; exit 1")
    text = await stage.said("starting it again in 0.4 s")
    assert text.count("error: no bundle") == 1
    assert "vision-1 ended with exit code 1 before it was up" in text
    assert keeper.log_file.read_text().count("error: no bundle") >= 3
    assert await keeper.stop(5)


async def test_what_is_stopped_on_purpose_stays_away(stage: Stage) -> None:
    keeper = stage.keep(WAITS)
    pid = await stage.running(keeper)
    assert await stage.supervisor.stop("vision-1", 5)
    assert not psutil.pid_exists(pid)
    assert stage.run_dir.processes() == []
    assert "starting it again" not in stage.text.getvalue()


async def test_what_outlives_its_time_is_killed_and_counted(stage: Stage) -> None:
    stubborn, kind = stage.keep(STUBBORN, "vision-1"), stage.keep(WAITS, "gateway")
    pids = [await stage.running(stubborn), await stage.running(kind)]
    await stage.supervisor.stop_all(((lambda program: program.component == "gateway", 5), (lambda program: True, 0.3)))
    assert not any(map(psutil.pid_exists, pids))
    text = stage.text.getvalue()
    assert "1 did not end in time and had to be killed: vision-1" in text
    assert text.index("stopped: gateway") < text.index("stopped: vision-1")


async def test_killing_waits_for_nobody(stage: Stage) -> None:
    keeper = stage.keep(STUBBORN)
    pid = await stage.running(keeper)
    stopping = asyncio.create_task(keeper.stop(60))
    stage.supervisor.kill_all()
    await asyncio.wait_for(stopping, 5)
    assert not psutil.pid_exists(pid)


async def test_a_child_has_a_session_of_its_own(stage: Stage) -> None:
    pid = await stage.running(stage.keep(WAITS))
    assert os.getsid(pid) == pid != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's")
async def test_a_child_dies_with_a_parent_that_is_killed(stage: Stage) -> None:
    leash = Path(__file__).parents[3] / "deploy/local/leash.py"
    code = (
        "import os, subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-IS', {str(leash)!r}, str(os.getpid()), '/bin/sleep', '60']); "
        "print(child.pid, flush=True); child.wait()"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(await parent.stdout.readline()))
    parent.kill()
    await parent.wait()
    assert psutil.wait_procs([child], timeout=5)[1] == []
