"""RunDir: one run at a time, and what it says is true."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.local.run_dir import Process, RunDir
from services.kit.errors import StartupError


def this_process(**changes: object) -> Process:
    me = psutil.Process()
    process = Process("vision", "vision-1", me.pid, me.create_time(), "127.0.0.1:1", "vision-1.log")
    return dataclasses.replace(process, **changes)  # type: ignore[arg-type]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "a run")
    run.write([this_process()])
    assert RunDir(tmp_path / "a run").processes() == [this_process()]


def test_no_run_and_a_damaged_file_are_no_processes(tmp_path: Path) -> None:
    assert RunDir(tmp_path / "none").processes() == []
    (tmp_path / "run.json").write_text('{"processes": [{"pid": 1}]}')
    assert RunDir(tmp_path).processes() == []


def test_another_process_under_the_same_pid_is_not_taken_for_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write([this_process(started=psutil.Process().create_time() - 60)])
    assert run.processes() == []


def test_a_process_that_has_ended_is_not_listed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(ended.pid).create_time()
    run = RunDir(tmp_path)
    run.write([this_process(pid=ended.pid, started=started)])
    assert len(run.processes()) == 1
    ended.communicate()
    assert run.processes() == []


def test_a_second_launcher_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    with RunDir(tmp_path).held():
        with pytest.raises(StartupError, match=f"process {os.getpid()}") as refused, RunDir(tmp_path).held():
            pass
        assert "GRPC_PORT" in refused.value.hint
    with RunDir(tmp_path).held():
        pass


def test_a_new_run_sets_the_last_ones_logs_aside(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with run.held():
        run.log_file("vision-1").write_text("first")
        run.write([this_process()])
    with run.held():
        assert (tmp_path / "logs/vision-1.log.1").read_text() == "first"
        assert not run.log_file("vision-1").exists()
        assert run.processes() == []


def test_what_a_launcher_leaves_behind_tells_that_it_was_killed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert (run.left_behind(), run.holder()) == (False, None)
    with run.held():
        assert (run.left_behind(), run.holder()) == (True, os.getpid())
    assert not run.left_behind()
