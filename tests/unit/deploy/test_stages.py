"""tests/stages.sh: all stages in order, each within its limit where there is a `timeout`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "stages.sh"
NO_LIMIT = "there is no GNU timeout here: a stage that hangs is not stopped"
STAGES = ["setup", "lint", "type", "protos", "unit", "parity", "integration", "chaos"]


class Tree:
    """A checkout whose programs only say that they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tools = folder, folder / "tools"
        for path in ("tests", "tools", ".venv/bin", "deploy/local"):
            (folder / path).mkdir(parents=True)
        shutil.copy(SCRIPT, folder / "tests/stages.sh")
        for tool in ("sh", "date", "dirname", "true"):
            (self.tools / tool).symlink_to(str(shutil.which(tool)))
        for program in (".venv/bin/python", "deploy/local/setup", "tools/make"):
            self.program(program, 'echo "ran $*"')

    def program(self, path: str, script: str) -> None:
        (self.folder / path).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / path).chmod(0o755)

    def run(self) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"PATH": str(self.tools)}
        command = [self.folder / "tests/stages.sh"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "a checkout")


def test_without_timeout_every_stage_runs_without_a_limit_and_it_says_so_once(tree: Tree) -> None:
    ended = tree.run()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count(NO_LIMIT) == 1
    assert [line[3:] for line in ended.stdout.splitlines() if line.startswith("== ")] == STAGES
    assert "ran lint\n" in ended.stdout
    assert "all stages passed" in ended.stdout


def test_a_timeout_of_another_kind_counts_as_none(tree: Tree) -> None:
    tree.program("tools/timeout", "echo unknown option >&2; exit 1")
    ended = tree.run()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert NO_LIMIT in ended.stdout


def test_the_first_stage_that_fails_is_the_last_one(tree: Tree) -> None:
    tree.program("tools/make", "[ $1 != type ]")
    ended = tree.run()
    assert ended.returncode == 1
    assert "== protos" not in ended.stdout
    assert ended.stdout.endswith("failed: type\n")


def test_a_stage_that_hangs_is_stopped_and_named(tree: Tree) -> None:
    tree.program("tools/timeout", '[ "$3" != 300 ] || exit 124; shift 3; exec "$@"')
    ended = tree.run()
    assert ended.returncode == 1
    assert NO_LIMIT not in ended.stdout
    assert "lint was stopped after its limit of 300 s" in ended.stdout
