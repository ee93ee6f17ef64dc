"""trivium ps and stop: who asks at the wrong place learns of the right one."""

import json
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from deploy.local import commands
from deploy.local.run_dir import Process, RunDir
from deploy.local.runs import Run


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The only run that is up."""
    run = Run(psutil.Process(), tmp_path / "a run", "127.0.0.1:9101")
    monkeypatch.setattr(commands, "runs", lambda: [run])
    return run


def ask(folder: Path, *arguments: str) -> Result:
    command = {"ps": commands.ps, "stop": commands.stop}[arguments[0]]
    return CliRunner().invoke(command, arguments[1:], env={"TRIVIUM_RUN_DIR": str(folder)})


@pytest.mark.parametrize("arguments", [("ps",), ("stop", "vision-1")])
def test_at_the_wrong_place_every_run_is_named_with_what_asks_it(
    arguments: tuple[str, ...], other: Run, tmp_path: Path
) -> None:
    ended = ask(tmp_path / "none", *arguments)
    assert ended.stderr.startswith(f"trivium: no run is up in {tmp_path}/none\n")
    assert "another run is up:\n" in ended.stderr
    command = f"TRIVIUM_RUN_DIR='{other.folder}' .venv/bin/trivium {' '.join(arguments)}    # 127.0.0.1:9101\n"
    assert command in ended.stderr
    assert ended.stdout == ""


def test_at_the_right_place_no_other_run_is_named(other: Run) -> None:
    me = psutil.Process()
    RunDir(other.folder).write([Process("gateway", "gateway", me.pid, me.create_time(), other.address, "g.log")])
    ended = ask(other.folder, "ps")
    assert "127.0.0.1:9101" in ended.stdout
    assert ended.stderr == ""


def test_a_run_that_has_started_nothing_yet_is_no_missing_run(other: Run) -> None:
    ended = ask(other.folder, "ps")
    assert ended.stderr == f"trivium: the run in {other.folder} has no processes yet, or none any more\n"


def test_programs_hear_of_one_run_alone(other: Run, tmp_path: Path) -> None:
    ended = ask(tmp_path / "none", "ps", "--json")
    assert (json.loads(ended.stdout), ended.stderr, ended.exit_code) == ([], "", 0)
