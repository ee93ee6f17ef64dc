"""tests/stages.sh: all stages in order, each within its limit where there is a `timeout`."""

import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.harness import still_running

SCRIPT = Path(__file__).parents[2] / "stages.sh"
NO_LIMIT = "there is no GNU timeout here: a stage that hangs is not stopped"
BESIDE = ["type", "parity"]
STAGES = ["setup", "lint", "protos", "unit", "integration", *BESIDE, "chaos"]


class Tree:
    """A checkout whose programs only say that they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tools = folder, folder / "tools"
        for path in ("tests", "tools", ".venv/bin", "deploy/local"):
            (folder / path).mkdir(parents=True)
        shutil.copy(SCRIPT, folder / "tests/stages.sh")
        for tool in ("sh", "cat", "date", "dirname", "mktemp", "nice", "rm", "sleep", "true"):
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
    assert [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("== ")] == STAGES
    assert "ran lint\n" in ended.stdout
    assert "all stages passed" in ended.stdout


def test_a_timeout_of_another_kind_counts_as_none(tree: Tree) -> None:
    tree.program("tools/timeout", "echo unknown option >&2; exit 1")
    ended = tree.run()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert NO_LIMIT in ended.stdout


def test_the_first_stage_that_fails_is_the_last_one(tree: Tree) -> None:
    tree.program("tools/make", "[ $1 != lint ]")
    ended = tree.run()
    assert ended.returncode == 1
    assert "== protos" not in ended.stdout
    assert ended.stdout.endswith("failed: lint\n")


def test_a_stage_that_hangs_is_stopped_and_named(tree: Tree) -> None:
    tree.program("tools/timeout", '[ "$3" != 300 ] || exit 124; shift 3; exec "$@"')
    ended = tree.run()
    assert ended.returncode == 1
    assert NO_LIMIT not in ended.stdout
    assert "lint was stopped after its limit of 300 s" in ended.stdout


def test_what_a_stage_beside_another_says_comes_whole_and_its_failure_ends_the_run(tree: Tree) -> None:
    tree.program("tools/make", 'echo "ran $*"; echo and more; [ $1 != type ]')
    tree.program(".venv/bin/python", 'echo "ran $*"')
    ended = tree.run()
    assert (ended.returncode, ended.stderr) == (1, "")
    after = ended.stdout.partition("== integration\n")[2].splitlines()
    assert after[:5] == [
        "ran -m pytest -q tests/integration",
        "",
        "== type (beside the one before)",
        "ran type",
        "and more",
    ]
    assert "== chaos" not in ended.stdout
    assert ended.stdout.endswith("failed: type\n")


def test_a_stage_that_hangs_beside_another_is_stopped_and_named(tree: Tree) -> None:
    tree.program("tools/timeout", '[ "$5" != type ] || exit 124; shift 3; exec "$@"')
    ended = tree.run()
    assert ended.returncode == 1
    assert "type was stopped after its limit of 1200 s" in ended.stdout


@pytest.mark.parametrize("how", ["fails", "is told to end"])
def test_what_runs_beside_a_stage_ends_with_the_run(tree: Tree, how: str) -> None:
    """The stage ends when both have said who they are, and they would go on for a minute."""
    for name in BESIDE:
        os.mkfifo(tree.folder / name)
    tree.program("tools/make", '[ "$1" != type ] || { echo $$ >type; exec sleep 60; }')
    then = "kill -TERM $PPID; exit 143" if how == "is told to end" else "exit 1"
    tree.program(
        ".venv/bin/python",
        f"""case "$*" in
            *parity) echo $$ >parity; exec sleep 60 ;;
            *integration) cat type parity >>numbers; {then} ;;
        esac""",
    )
    ended = tree.run()
    assert ended.returncode == (143 if how == "is told to end" else 1)
    numbers = (tree.folder / "numbers").read_text().split()
    assert len(numbers) == len(BESIDE)
    beside = [psutil.Process(number) for number in map(int, numbers) if psutil.pid_exists(number)]
    assert still_running(beside, 10) == []
    assert "== chaos" not in ended.stdout
