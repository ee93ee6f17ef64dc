"""`make run`: the real launcher with the whole suite, started, broken and stopped as people do it."""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from PIL import Image

from tests import bundles
from tests.harness import ROOT, free_port, still_running
from trivium.client import Classification, Client, TriviumCallError

START_S, STOP_S = 30, 10


class Run:
    """One launcher, in a folder with a space in its name and on ports of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.address = folder / "a run", f"127.0.0.1:{free_port()}"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TRIVIUM_")}
        self.environment = clean | {
            "TRIVIUM_RUN_DIR": str(self.folder),
            "TRIVIUM_ADDRESS": self.address,
            "TRIVIUM_GATEWAY__GRPC_PORT": self.address.rpartition(":")[2],
            "TRIVIUM_GATEWAY__HTTP_PORT": str(free_port()),
            "TRIVIUM_VISION__BUNDLES_DIR": str(folder / "bundles"),
            "TRIVIUM_VISION__DEFAULT_MODEL": "colours",
        }
        if not (folder / "bundles").exists():
            bundles.colours(folder / "bundles")
        self.launcher = self.launch(*options)
        self.output = ""
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def launch(self, *options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "deploy.local", "--cpu", *options]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, **pipes)

    def _read(self) -> None:
        assert self.launcher.stdout is not None
        for line in self.launcher.stdout:
            self._lines.put(line)
        self._lines.put("")

    def until(self, pattern: str, timeout_s: float = START_S) -> str:
        """The next line that matches the pattern."""
        end = time.monotonic() + timeout_s
        while line := self._lines.get(timeout=max(0.0, end - time.monotonic())):
            self.output += line
            if re.search(pattern, line):
                return line
        raise AssertionError(f"the launcher ended before it said {pattern!r}:\n{self.output}")

    def trivium(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", "from trivium.command import main; main()", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )

    def make_stop(self, *run: str) -> "subprocess.CompletedProcess[str]":
        """What `make stop RUN=...` does."""
        command = [sys.executable, "-m", "deploy.local.stop", *run]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )

    def processes(self) -> dict[str, dict[str, Any]]:
        """What `trivium ps` says, by instance."""
        ended = self.trivium("ps", "--json")
        assert ended.returncode == 0, ended.stderr
        return {entry["instance"]: entry for entry in json.loads(ended.stdout)}

    def children(self) -> list[psutil.Process]:
        """Every process below the launcher, once Consul, the gateway and the services are among them.

        What looks for Consul has ended by then. None of them is a copy of the launcher that has yet to become a
        program: whoever stops that stops the launcher.
        """
        launcher = psutil.Process(self.launcher.pid)
        found: list[psutil.Process] = []

        def complete() -> bool:
            found[:] = launcher.children(recursive=True)
            with contextlib.suppress(psutil.NoSuchProcess):
                commands = [child.cmdline() for child in found]
                agents = [command for command in commands if "agent" in command]
                return len(found) >= 4 and len(agents) == 1 and launcher.cmdline() not in commands
            return False

        eventually(complete)
        return found

    def classify(self) -> Classification:
        red = self.folder.parent / "red.png"
        Image.new("RGB", (8, 8), (250, 10, 10)).save(red)
        with Client(self.address) as client:
            return client.classify(red)

    def stop(self) -> None:
        self.launcher.terminate()
        self.launcher.wait(2 * STOP_S)
        assert self.launcher.stdout is not None
        self.launcher.stdout.close()


def eventually(holds: Callable[[], object], timeout_s: float = START_S) -> None:
    """Returns when `holds` is true: another process has no event for us."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = Run(tmp_path_factory.mktemp("local"), "--replicas", "2")
    run.until("^ready")
    yield run
    run.stop()


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path, "--replicas", "2")
    yield run
    run.stop()


def test_it_says_what_it_does_and_then_where_everything_is(run: Run) -> None:
    steps, ready = run.output.splitlines()[:-1], run.output.splitlines()[-1]
    assert all(re.match(r" +\d+\.\d\d s ", line) for line in steps), run.output
    assert ready.startswith("ready")
    for address in (run.address, f"http://127.0.0.1:{run.environment['TRIVIUM_GATEWAY__HTTP_PORT']}", str(run.folder)):
        assert address in ready
    assert "\x1b" not in run.output


def test_then_it_says_which_device_each_service_has(run: Run) -> None:
    said = run.until("models run on: ")
    assert said == "  models run on: language CPU, sequence CPU, vision CPU\n"


def test_then_it_shows_that_it_works(run: Run) -> None:
    for digit in "01":
        run.until(rf"a {digit}: colours:1 says (red|green|blue) \(\d+\.\d%\), \d+\.\d ms")
    *command, option, address = run.until("try: ").split()
    assert (command[1].endswith("trivium"), option, address) == (True, "--address", run.address)


def test_ps_lists_every_process_with_its_address(run: Run) -> None:
    found = run.processes()
    assert {name: entry["component"] for name, entry in found.items() if name.startswith(("c", "g", "vision"))} == {
        "consul": "consul",
        "gateway": "gateway",
        "vision-1": "vision",
        "vision-2": "vision",
    }
    for entry in found.values():
        assert set(entry) == {"component", "instance", "pid", "address", "log_file"}
        assert psutil.pid_exists(entry["pid"])
        assert Path(entry["log_file"]).stat().st_size
    assert found["gateway"]["address"] == run.address
    with Client(found["vision-2"]["address"]) as client:
        assert client.health()


def test_an_image_is_classified_through_the_gateway(run: Run) -> None:
    answer = run.classify()
    assert (answer.label, answer.model, answer.version) == ("red", "colours", 1)
    assert answer.instance in ("vision-1", "vision-2")


@pytest.mark.parametrize(
    ("instance", "number"),
    [
        ("vision-1", signal.SIGKILL),
        ("vision-1", signal.SIGTERM),
        ("gateway", signal.SIGKILL),
        ("consul", signal.SIGKILL),
    ],
)
def test_whatever_ends_is_replaced_under_its_name(run: Run, instance: str, number: signal.Signals) -> None:
    before = run.processes()[instance]["pid"]
    os.kill(before, number)
    run.until(f"{instance} is up")
    assert run.processes()[instance]["pid"] != before
    eventually(lambda: answers(run))


def answers(run: Run) -> bool:
    try:
        return run.classify().label == "red"
    except TriviumCallError as error:
        if error.code is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False


def test_what_is_stopped_on_purpose_stays_away_and_the_others_serve(run: Run) -> None:
    ended = run.trivium("stop", "vision-2")
    assert (ended.returncode, ended.stdout) == (0, "vision-2 has ended\n")
    assert "vision-2" not in run.processes()
    assert {run.classify().instance for _ in range(10)} == {"vision-1"}
    unknown = run.trivium("stop", "vision-2")
    assert unknown.returncode == 1
    assert "vision-1" in unknown.stderr


def test_a_second_launcher_is_told_that_the_run_is_up(run: Run) -> None:
    with run.launch() as second:
        output, _ = second.communicate(timeout=10)
    assert second.returncode == 1
    assert "already up" in output
    assert f"kill {run.launcher.pid}" in output


def test_a_taken_port_is_found_before_anything_starts(run: Run, tmp_path: Path) -> None:
    environment = run.environment | {"TRIVIUM_RUN_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "deploy.local"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=10, check=False)
    assert ended.returncode == 1
    assert f"process {run.processes()['gateway']['pid']}" in ended.stderr
    assert "TRIVIUM_GATEWAY__GRPC_PORT=" in ended.stderr
    assert ended.stdout == ""


def test_without_a_run_there_are_no_processes(run: Run, tmp_path: Path) -> None:
    environment = run.environment | {"TRIVIUM_RUN_DIR": str(tmp_path / "none")}
    command = [sys.executable, "-c", "from trivium.command import main; main()", "ps", "--json"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, json.loads(ended.stdout)) == (0, [])


def test_who_asks_at_the_wrong_place_learns_how_to_ask_this_run(run: Run, tmp_path: Path) -> None:
    environment = run.environment | {"TRIVIUM_RUN_DIR": str(tmp_path / "none")}
    command = [sys.executable, "-c", "from trivium.command import main; main()", "ps"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert f"no run is up in {tmp_path}/none" in ended.stderr
    assert f"TRIVIUM_RUN_DIR='{run.folder}' .venv/bin/trivium ps    # {run.address}\n" in ended.stderr


def test_a_run_in_the_background_is_stopped_by_name(starting: Run) -> None:
    children = starting.children()
    ended = starting.make_stop()  # the environment names it
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(rf"process {starting.launcher.pid}\) \.\.\.\nit has ended, after \d+\.\d s\n$", ended.stdout)
    assert starting.launcher.wait(1) == 0
    assert still_running(children, 0) == []
    again = starting.make_stop()
    assert f"no run is up in {starting.folder}" in again.stdout + again.stderr


def test_a_second_interrupt_waits_for_nobody(starting: Run) -> None:
    children = starting.children()
    for child in children:
        child.suspend()
    starting.launcher.send_signal(signal.SIGINT)
    starting.until("stopping")
    eventually(lambda: interrupted(starting.launcher), 2)
    assert starting.launcher.returncode == 0
    assert still_running(children, STOP_S) == []


def interrupted(launcher: "subprocess.Popen[str]") -> bool:
    """Whether it has ended; interrupts it if not."""
    launcher.send_signal(signal.SIGINT)
    return launcher.poll() is not None


def test_what_hangs_is_killed_in_time(starting: Run) -> None:
    children = starting.children()
    for child in children:
        child.suspend()
    starting.launcher.terminate()
    assert starting.launcher.wait(STOP_S) == 0
    assert still_running(children, STOP_S) == []


def test_no_child_outlives_a_launcher_that_is_killed(starting: Run) -> None:
    children = starting.children()
    starting.launcher.kill()
    assert still_running(children, STOP_S) == []
    assert starting.processes() == {}
    ended = starting.make_stop()
    assert f"no run is up in {starting.folder}: the last one was killed" in ended.stdout + ended.stderr


def test_an_interrupt_stops_everything_in_order_and_in_time(run: Run) -> None:
    """The last test: it ends the run that the others share."""
    children = psutil.Process(run.launcher.pid).children(recursive=True)
    assert len(children) >= 3
    run.launcher.send_signal(signal.SIGINT)
    assert run.launcher.wait(STOP_S) == 0
    assert still_running(children, STOP_S) == []
    assert not (run.folder / "run.json").exists()
    with pytest.raises(AssertionError):  # the launcher's last lines
        run.until("nothing like this")
    found = [re.search(rf"stopped: .*\b{name}\b", run.output) for name in ("gateway", "vision-1", "consul")]
    order = [match.start() for match in found if match]
    assert len(order) == 3
    assert order == sorted(order)
