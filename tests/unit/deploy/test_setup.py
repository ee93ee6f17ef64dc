"""deploy/local/setup: two at once, and how much it downloads."""

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


def setup(checkout: Path, *extras: str) -> "subprocess.Popen[str]":
    command = [str(checkout / "deploy/local/setup"), *extras]
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


@pytest.mark.parametrize(
    ("torch", "said"), [(False, " (up to 2.7 GB, torch with CUDA; README.md names"), (True, " ... ")]
)
def test_torch_is_announced_with_its_size_unless_it_is_there(checkout: Path, torch: bool, said: str) -> None:
    (checkout / "requirements/train.lock").touch()
    if torch:
        (checkout / ".venv/lib/python3.11/site-packages/torch").mkdir(parents=True)
    with setup(checkout, "train") as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert output.startswith(f"setup: installing the train tools{said}")
