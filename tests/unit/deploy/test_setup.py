"""deploy/local/setup: two at once."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy/local/setup"
WAITING = "setup: waiting for another setup of this checkout ...\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose virtual environment is up to date."""
    for folder in ("deploy/local", "requirements", ".venv/bin", ".venv/stamps"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "deploy/local/setup")
    (tmp_path / ".venv/bin/python").symlink_to(str(shutil.which("true")))
    for name, file in (("run", "requirements/run.lock"), ("checkout", "pyproject.toml")):
        (tmp_path / file).write_text(f"{name}\n")
        with (tmp_path / file).open() as content, (tmp_path / ".venv/stamps" / name).open("w") as stamp:
            subprocess.run(["cksum"], stdin=content, stdout=stamp, check=True)
    return tmp_path


def setup(checkout: Path) -> "subprocess.Popen[str]":
    command = [checkout / "deploy/local/setup"]
    return subprocess.Popen(command, env=os.environ | {"GPU": "0"}, stdout=subprocess.PIPE, text=True)


def test_a_setup_with_nothing_to_do_is_silent(checkout: Path) -> None:
    with setup(checkout) as alone:
        assert (alone.communicate(timeout=30)[0], alone.returncode) == ("", 0)


@pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock here")
def test_a_setup_that_waits_for_another_one_says_so_and_goes_on_after_it(checkout: Path) -> None:
    with (checkout / "pyproject.toml").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with setup(checkout) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == WAITING
            assert second.poll() is None
            fcntl.flock(other, fcntl.LOCK_UN)
            assert (second.communicate(timeout=30)[0], second.returncode) == ("", 0)
