"""Keeper and Supervisor: what ends is replaced, what is stopped is not."""

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from deploy.local.child import Program
from deploy.local.progress import Progress
from deploy.local.run_dir import Process, RunDir
from deploy.local.supervisor import SETTLED_S, Keeper, Pace, Supervisor, describe_exit, restart_delay_s
from services.kit.errors import StartupError
from tests.harness import still_running

LIMIT_S = 10  # of what takes milliseconds

# Tells its pid and then waits for a line that never comes.
WAITS = "echo $$ > up; read -r line < never"
STUBBORN = "trap '' TERM; echo $$ > up; read -r line < never"
BROKEN = "echo no bundle; exit 1"


class Recorded(RunDir):
    """A run directory that tells when something is written into it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.written = asyncio.Event()

    def write(self, processes: Sequence[Process]) -> None:
        super().write(processes)
        self.written.set()


class Stage:
    """A supervisor whose programs are one-line shell scripts; its clock stands still, and it waits for nothing."""

    def __init__(self, folder: Path, pids: asyncio.StreamReader) -> None:
        self.folder, self._pids, self.text = folder, pids, io.StringIO()
        self.now_s, self.failures = 0.0, list[int]()
        self.run_dir = Recorded(folder / "run dir")
        progress = Progress(Console(file=self.text, soft_wrap=True))
        self.supervisor = Supervisor(self.run_dir, progress, Pace(lambda: self.now_s, self._no_delay))

    def _no_delay(self, failures: int) -> float:
        self.failures.append(failures)
        return 0.0

    def keep(self, script: str, instance: str = "vision-1") -> Keeper:
        command = ("/bin/sh", "-c", f"cd '{self.folder}'; {script}")
        return self.supervisor.keep(Program(instance.partition("-")[0], instance, command, dict(os.environ)))

    async def running(self) -> int:
        """The pid of the process that comes up next, once it waits and run.json has it."""
        async with asyncio.timeout(LIMIT_S):
            pid = int(await self._pids.readline())
            while pid not in [process.pid for process in self.run_dir.processes()]:
                self.run_dir.written.clear()
                await self.run_dir.written.wait()
        return pid


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    for name in ("up", "never"):
        os.mkfifo(tmp_path / name)
    reader = asyncio.StreamReader()
    with os.fdopen(os.open(tmp_path / "up", os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0) as up:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), up
        )
        stage = Stage(tmp_path, reader)
        yield stage
        await stage.supervisor.stop_all(((lambda program: True, 0),))
        transport.close()


def test_only_failed_starts_are_delayed_each_time_longer_and_never_long() -> None:
    assert [restart_delay_s(failures) for failures in range(9)] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    assert restart_delay_s(10_000) == 5


def test_an_exit_is_described_in_words() -> None:
    assert describe_exit(0) == "ended with exit code 0"
    assert describe_exit(-signal.SIGKILL) == "was killed by SIGKILL"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_process_that_ends_is_replaced(stage: Stage, number: signal.Signals) -> None:
    stage.keep(WAITS)
    first = await stage.running()
    os.kill(first, number)
    second = await stage.running()
    assert second != first
    assert [process.pid for process in stage.run_dir.processes()] == [second]


async def test_a_process_that_cannot_start_is_tried_again_and_its_last_words_are_shown(stage: Stage) -> None:
    keeper = stage.keep(
        f"[ -e third ] && {{ {WAITS}; }}; [ -e second ] && touch third; touch second; echo no bundle; exit 1"
    )
    await stage.running()
    text = stage.text.getvalue()
    assert stage.failures == [1, 2]
    assert text.count("| no bundle") == 1
    assert text.count("vision-1 ended with exit code 1 before it was up") == 2
    assert keeper.log_file.read_text().count("no bundle\n") == 2


async def test_whoever_waits_for_a_process_that_never_comes_up_is_told(stage: Stage) -> None:
    keeper = stage.keep(BROKEN)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(StartupError, match=r"vision-1 ended [0-9]+ times before it was up") as error:
            await keeper.first_ready()
    assert str(keeper.log_file) in error.value.hint
    assert stage.failures[:3] == [1, 2, 3]
    assert stage.text.getvalue().count("| no bundle") == 2  # of the first one, and of the one that was enough


async def test_a_process_whose_settings_are_wrong_is_started_once(stage: Stage) -> None:
    keeper = stage.keep("echo unknown setting; exit 78")
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(StartupError, match=r"^vision-1 ended before it was up$"):
            await keeper.first_ready()
        await keeper._task
    assert stage.failures == [1]
    text = stage.text.getvalue()
    assert "vision-1 ended with exit code 78 before it was up: its settings are wrong" in text
    assert text.count("| unknown setting") == 1


async def test_settings_that_become_wrong_later_may_become_right_again(stage: Stage) -> None:
    keeper = stage.keep(f"[ -e wrong ] && {{ rm wrong; exit 78; }}; {WAITS}")
    pid = await stage.running()
    keeper.mark_ready("127.0.0.1:1")
    (stage.folder / "wrong").touch()
    os.kill(pid, signal.SIGKILL)
    assert await stage.running() != pid


async def test_what_was_up_once_is_started_again_for_ever(stage: Stage) -> None:
    keeper = stage.keep(f"[ -e down ] && {{ rm down; exit 1; }}; {WAITS}")
    for _ in range(5):
        pid = await stage.running()
        keeper.mark_ready("127.0.0.1:1")
        await asyncio.wait_for(keeper.first_ready(), LIMIT_S)
        (stage.folder / "down").touch()
        os.kill(pid, signal.SIGKILL)
    await stage.running()
    assert "stands above" not in stage.text.getvalue()


@pytest.mark.parametrize(("served_s", "failures"), [(SETTLED_S, 0), (SETTLED_S / 2, 1)])
async def test_only_an_exit_soon_after_it_was_up_counts_as_a_failed_start(
    stage: Stage, served_s: float, failures: int
) -> None:
    keeper = stage.keep(WAITS)
    pid = await stage.running()
    keeper.mark_ready("127.0.0.1:1")
    stage.now_s += served_s
    os.kill(pid, signal.SIGKILL)
    await stage.running()
    assert stage.failures == [failures]


async def test_what_is_stopped_on_purpose_stays_away(stage: Stage) -> None:
    stage.keep(WAITS)
    pid = await stage.running()
    assert await stage.supervisor.stop("vision-1", LIMIT_S)
    assert not psutil.pid_exists(pid)
    assert stage.run_dir.processes() == []
    assert "starting it again" not in stage.text.getvalue()


async def test_what_outlives_its_time_is_killed_and_counted(stage: Stage) -> None:
    pids = []
    for script, instance in ((STUBBORN, "vision-1"), (WAITS, "gateway")):
        stage.keep(script, instance)
        pids.append(await stage.running())
    await stage.supervisor.stop_all(
        ((lambda program: program.component == "gateway", LIMIT_S), (lambda program: True, 0))
    )
    assert not any(map(psutil.pid_exists, pids))
    text = stage.text.getvalue()
    assert "1 did not end in time and had to be killed: vision-1" in text
    assert text.index("stopped: gateway") < text.index("stopped: vision-1")


async def test_killing_waits_for_nobody(stage: Stage) -> None:
    keeper = stage.keep(STUBBORN)
    pid = await stage.running()
    stopping = asyncio.create_task(keeper.stop(6 * LIMIT_S))
    stage.supervisor.kill_all()
    await asyncio.wait_for(stopping, LIMIT_S)
    assert not psutil.pid_exists(pid)


async def test_a_child_has_a_session_of_its_own(stage: Stage) -> None:
    stage.keep(WAITS)
    pid = await stage.running()
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
    assert still_running([child], 5) == []
