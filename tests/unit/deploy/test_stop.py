"""Stopping a run: the one that is meant, and no other."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local.runs import Run
from deploy.local.settings import ROOT
from deploy.local.stop import Unclear, chosen, end
from services.kit.errors import StartupError

HERE = Run(psutil.Process(), ROOT / ".run" / "9001", "127.0.0.1:9001")
ELSEWHERE = Run(psutil.Process(), Path("/elsewhere/a run"), "127.0.0.1:9101")
STARTING = Run(psutil.Process(), ROOT / ".run" / "9201", "")
ALL = [HERE, ELSEWHERE, STARTING]

ENDS = "print('up', flush=True); input()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {ENDS}"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("9001", HERE),
        ("localhost:9101", ELSEWHERE),
        ("/elsewhere/a run", ELSEWHERE),
        (str(ROOT / "deploy/../.run/9001"), HERE),
        ("9201", STARTING),
    ],
)
def test_a_run_is_named_by_port_address_or_folder(name: str, meant: Run) -> None:
    assert chosen(ALL, name, {}) is meant


def test_without_a_name_the_environment_counts_and_then_the_only_run() -> None:
    assert chosen(ALL, None, {"TRIVIUM_GATEWAY__GRPC_PORT": "9001"}) is HERE
    assert chosen(ALL, None, {"TRIVIUM_RUN_DIR": "/elsewhere/a run"}) is ELSEWHERE
    assert chosen([ELSEWHERE], None, {}) is ELSEWHERE


@pytest.mark.parametrize(
    ("found", "name", "environ", "said"),
    [
        (ALL, None, {}, "3 runs are up: which one?"),
        (ALL, "9301", {}, f"no run is up in {ROOT}/.run/9301; up is"),
        ([HERE], None, {"TRIVIUM_GATEWAY__GRPC_PORT": "9301"}, f"no run is up in {ROOT}/.run/9301; up is"),
        ([HERE], None, {"TRIVIUM_RUN_DIR": "/none"}, "no run is up in /none; up is"),
        ([], None, {"TRIVIUM_RUN_DIR": "/none"}, "no run is up in /none"),
        ([], "/none", {}, "no run is up in /none"),
    ],
)
def test_no_run_is_stopped_for_another(found: list[Run], name: str | None, environ: dict[str, str], said: str) -> None:
    with pytest.raises(Unclear) as error:
        chosen(found, name, environ)
    assert str(error.value) == said


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-S", "-c", request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


@pytest.mark.parametrize("process", [ENDS], indirect=True)
def test_it_returns_when_the_launcher_has_ended_even_if_its_parent_takes_no_notice(
    process: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    end(Run(psutil.Process(process.pid), Path("/a run"), "127.0.0.1:9001"), limit_s=30)
    assert process.wait(0) == -signal.SIGTERM
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"stopping the run in /a run (127.0.0.1:9001, process {process.pid}) ..."
    assert second.startswith("it has ended, after ")


@pytest.mark.parametrize("process", [STUBBORN], indirect=True)
def test_a_launcher_that_does_not_end_is_left_alone_with_a_word_on_what_helps(
    process: "subprocess.Popen[str]",
) -> None:
    with pytest.raises(StartupError, match=r"not ended within 0\.05 s") as error:
        end(Run(psutil.Process(process.pid), Path("/a run"), ""), limit_s=0.05)
    assert f"kill -9 {process.pid}" in error.value.hint
    assert process.poll() is None


@pytest.mark.parametrize("process", [ENDS], indirect=True)
def test_a_launcher_that_was_faster_has_ended_too(
    process: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(psutil.Process(process.pid), Path("/a run"), "")
    process.kill()
    process.wait()
    end(run)
    assert "it has ended" in capsys.readouterr().out
