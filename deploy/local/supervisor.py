"""Supervisor: keeps programs running, replaces those that end, and stops all of them in order."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from deploy.local.child import Child, Program
from deploy.local.progress import Progress
from deploy.local.run_dir import Process, RunDir
from services.kit.errors import StartupError
from services.kit.lifecycle import WRONG_SETTINGS

SETTLED_S = 10.0  # a process that ends within this time of being ready counts as one that could not start
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0
TAIL = 12  # lines of a log file that are shown
MOST_FIRST_STARTS = 3  # of a program that has never been up: its files are wrong


def restart_delay_s(failures: int) -> float:
    """Seconds before the next start, after so many failed starts in a row; 0 after none."""
    return min(FIRST_BACKOFF_S * 2 ** min(failures - 1, 10), LONGEST_BACKOFF_S) if failures else 0.0


def describe_exit(code: int) -> str:
    """What an exit code means: "was killed by SIGKILL" or "ended with exit code 1"."""
    if code >= 0:
        return f"ended with exit code {code}"
    known = code and -code in set(signal.Signals)
    return f"was killed by {signal.Signals(-code).name if known else f'signal {-code}'}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How a keeper tells the time and how long it waits."""

    clock: Callable[[], float] = time.monotonic  # seconds
    restart_delay_s: Callable[[int], float] = restart_delay_s  # by failed starts in a row


# Returns the address of a program that was just started, as soon as it answers there.
Probe = Callable[[], Awaitable[str]]


class Keeper:
    """Keeps one program running, under one instance name, until it is stopped on purpose.

    Whether it is ready is found out by the probe, asked anew at each start, or by someone who calls `mark_ready`.
    """

    def __init__(
        self,
        program: Program,
        probe: Probe | None,
        run_dir: RunDir,
        progress: Progress,
        on_change: Callable[[], None],
        pace: Pace,
    ) -> None:
        self.program, self.log_file = program, run_dir.log_file(program.instance)
        self._probe, self._progress, self._on_change, self._pace = probe, progress, on_change, pace
        self.child: Child | None = None
        self.address = ""  # where it answers, once it is ready
        self.ready = asyncio.Event()  # of the process that runs now
        self._leaving = asyncio.Event()
        self._failures, self._ready_at = 0, 0.0
        self._was_up = False
        self._hopeless = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"keep {program.instance}")

    def mark_ready(self, address: str) -> None:
        """Says that the process answers at `address`."""
        if self.ready.is_set() and self.address == address:
            return
        self.address, self._ready_at, self._was_up = address, self._pace.clock(), True
        self.ready.set()
        self._progress.step(f"{self.program.instance} is up at {address}")
        self._on_change()

    async def first_ready(self) -> None:
        """Returns when a process of it is ready, or it was stopped for good.

        Raises:
            StartupError: it has ended again and again, or for wrong settings, and was never up.
        """
        ready, hopeless = asyncio.create_task(self.ready.wait()), asyncio.create_task(self._hopeless.wait())
        await asyncio.wait({ready, hopeless, self._task}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        hopeless.cancel()
        if self._hopeless.is_set() and not self._was_up:
            often = f"{self._failures} times " if self._failures > 1 else ""
            raise StartupError(
                f"{self.program.instance} ended {often}before it was up",
                hint=f"what it said stands above, and in {self.log_file}",
            )

    def retire(self) -> None:
        """From now on, nothing takes the place of the process when it ends."""
        self._leaving.set()

    async def stop(self, limit_s: float) -> bool:
        """Ends the process for good. False if it had to be killed after `limit_s` seconds."""
        self.retire()
        if self.child is not None:
            self.child.terminate()
        _, running = await asyncio.wait({self._task}, timeout=max(limit_s, 0))
        if running:
            self.kill()
            await asyncio.wait({self._task})
        return not running

    def kill(self) -> None:
        """Ends the process for good, at once."""
        self.retire()
        if self.child is not None:
            self.child.kill()

    async def _run(self) -> None:
        while not self._leaving.is_set():
            delay_s = await self._run_once()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._leaving.wait()

    async def _run_once(self) -> float:
        """From the start of one process to its end; seconds before the next start."""
        try:
            child = self.child = await Child.spawn(self.program, self.log_file)
        except OSError as error:
            self._failures += 1
            self._progress.problem(f"cannot start {self.program.instance}: {error}")
            return LONGEST_BACKOFF_S
        self._on_change()
        if self._leaving.is_set():  # while it was being started
            child.terminate()
        probing = asyncio.create_task(self._ask(self._probe)) if self._probe else None
        code = await child.wait()
        if probing:
            probing.cancel()
        return self._ended(child, code)

    async def _ask(self, probe: Probe) -> None:
        self.mark_ready(await probe())

    def _ended(self, child: Child, code: int) -> float:
        """Notes that the process has ended; seconds before the next start."""
        was_ready, served_s = self.ready.is_set(), self._pace.clock() - self._ready_at
        self.child, self.address = None, ""
        self.ready.clear()
        self._on_change()
        self._failures = 0 if was_ready and served_s >= SETTLED_S else self._failures + 1
        delay_s = self._pace.restart_delay_s(self._failures)
        if not self._leaving.is_set():
            self._report(child, code, served_s if was_ready else None, delay_s)
        return delay_s

    def _report(self, child: Child, code: int, served_s: float | None, delay_s: float) -> None:
        when = "before it was up" if served_s is None else f"after {served_s:.0f} s"
        again = f"starting it again in {delay_s:.1f} s" if delay_s else "starting it again"
        if not self._was_up and code == WRONG_SETTINGS:
            again = "its settings are wrong"
            self._hopeless.set()
            self.retire()
        elif not self._was_up and self._failures >= MOST_FIRST_STARTS:
            self._hopeless.set()
        # The same lines every few seconds help nobody.
        said = served_s is None and self._failures in (1, MOST_FIRST_STARTS)
        text = f"{self.program.instance} {describe_exit(code)} {when}: {again}"
        if served_s is None:
            text = f"{text}; its output is in {self.log_file}"
        self._progress.problem(text, child.last_lines(TAIL) if said else ())


class Supervisor:
    """All the programs of a run, by instance name; run.json says at any time which of them run."""

    def __init__(self, run_dir: RunDir, progress: Progress, pace: Pace | None = None) -> None:
        self._run_dir, self._progress, self._pace = run_dir, progress, pace or Pace()
        self.keepers: dict[str, Keeper] = {}

    def keep(self, program: Program, probe: Probe | None = None) -> Keeper:
        """Starts the program and keeps it running."""
        keeper = Keeper(program, probe, self._run_dir, self._progress, self._record, self._pace)
        self.keepers[program.instance] = keeper
        return keeper

    async def stop(self, instance: str, limit_s: float) -> bool:
        """Stops one instance for good; False if it had to be killed.

        Raises:
            KeyError: no instance of that name is kept.
        """
        ended = await self.keepers[instance].stop(limit_s)
        self.keepers.pop(instance, None)
        how = "" if ended else f": killed, since it had not ended after {limit_s:g} s"
        self._progress.step(f"{instance} was stopped on purpose{how}")
        return ended

    async def stop_all(self, stages: Sequence[tuple[Callable[[Program], bool], float]]) -> None:
        """Stops everything, one stage after the other.

        Args:
            stages: which programs, and the seconds after the beginning at which those of them still running are killed.
        """
        started, killed, stopped = time.monotonic(), [], set[str]()
        for keeper in self.keepers.values():
            keeper.retire()
        for belongs, end_s in stages:
            leaving = {n: keeper for n, keeper in self.keepers.items() if n not in stopped and belongs(keeper.program)}
            stopped |= leaving.keys()
            limit_s = end_s - (time.monotonic() - started)
            ended = await asyncio.gather(*(keeper.stop(limit_s) for keeper in leaving.values()))
            killed += [name for name, in_time in zip(leaving, ended, strict=True) if not in_time]
            if leaving:
                self._progress.step(f"stopped: {', '.join(leaving)}")
        if killed:
            self._progress.problem(f"{len(killed)} did not end in time and had to be killed: {', '.join(killed)}")

    def kill_all(self) -> None:
        """Kills everything at once."""
        for keeper in self.keepers.values():
            keeper.kill()

    def _record(self) -> None:
        found = [_process(keeper, child) for keeper in self.keepers.values() if (child := keeper.child)]
        try:
            self._run_dir.write(found)
        except OSError as error:  # a full disk; the processes themselves go on
            self._progress.problem(f"cannot say in run.json what runs: {error}")


def _process(keeper: Keeper, child: Child) -> Process:
    return Process(
        component=keeper.program.component,
        instance=keeper.program.instance,
        pid=child.pid,
        started=child.started,
        address=keeper.address,
        log_file=str(keeper.log_file),
    )
