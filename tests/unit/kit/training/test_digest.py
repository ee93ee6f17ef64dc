import importlib.metadata
from pathlib import Path

import pytest

from services.kit.training import digest
from services.kit.training.digest import training_digest


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(digest, "ROOT", tmp_path)
    path = tmp_path / "network.py"
    path.write_bytes(b"layers = 3\n")
    return path


def test_everything_that_goes_in_changes_the_digest(source: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_bytes(b"1,2\n")
    digests = [training_digest({"steps": 1}, [source], [data], ["numpy"])]
    digests.append(training_digest({"steps": 2}, [source], [data], ["numpy"]))
    digests.append(training_digest({"steps": 1}, [source], [data], ["numpy", "pillow"]))
    data.write_bytes(b"1,3\n")
    digests.append(training_digest({"steps": 1}, [source], [data], ["numpy"]))
    source.write_bytes(b"layers = 4\n")
    digests.append(training_digest({"steps": 1}, [source], [data], ["numpy"]))
    assert len(set(digests)) == len(digests)


def test_line_endings_do_not_change_the_digest(source: Path) -> None:
    before = training_digest({}, [source], [], [])
    source.write_bytes(b"layers = 3\r\n")
    assert training_digest({}, [source], [], []) == before


def test_the_suffix_that_names_a_build_is_no_part_of_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"torch": "2.13.0+cpu"}.__getitem__)
    assert digest.versions(["torch"]) == {"torch": "2.13.0"}
