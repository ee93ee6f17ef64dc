"""How a process ends that cannot start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.kit.lifecycle import WRONG_SETTINGS
from tests import bundles

START = [sys.executable, "-m", "services.sequence"]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("INSTANCE", "a b", "INSTANCE is 'a b'"),
        ("BUNDLES_DIR", "/nowhere", "the bundles in /nowhere cannot be read"),
        ("DEFAULT_MODEL", "digits", "DEFAULT_MODEL is 'digits'"),
    ],
)
def test_a_wrong_setting_has_a_status_of_its_own(name: str, value: str, says: str) -> None:
    ended = started({f"TRIVIUM_SEQUENCE__{name}": value})
    assert (ended.returncode, ended.stderr.count("error: sequence: ")) == (WRONG_SETTINGS, 1)
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_may_be_better_next_time_has_none(tmp_path: Path) -> None:
    bundle = bundles.add(tmp_path, service="sequence")
    (bundle.path / "model.onnx").write_bytes(b"half a file")
    ended = started({"TRIVIUM_SEQUENCE__BUNDLES_DIR": str(tmp_path)})
    assert (ended.returncode, ended.stderr.count("error: sequence: ")) == (1, 1)
    assert "Traceback" not in ended.stderr


def started(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """One that ends by itself."""
    return subprocess.run(START, env=os.environ | settings, capture_output=True, text=True, timeout=60, check=False)
