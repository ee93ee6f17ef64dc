"""`trivium export language`: what it says before its work, and of what it has written."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from services.language.training import commands


class Exporter:
    """Stands in for the export, which takes torch and its time.

    Attributes:
        begun: how often it was asked.
    """

    def __init__(self) -> None:
        self.begun = 0

    def __call__(self, path: Path, name: str, out: Path, version: int, *_: Any) -> Path:
        self.begun += 1
        return out / name / str(version)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Exporter:
    made = Exporter()
    monkeypatch.setattr(commands, "_exported", made)
    return made


def language(out: Path, *options: str) -> Result:
    return CliRunner().invoke(commands.export, ["language", "here", "--name", "mine", "--out", str(out), *options])


def test_a_bundle_that_is_there_is_replaced_only_by_force(exporter: Exporter, tmp_path: Path) -> None:
    (tmp_path / "mine" / "2").mkdir(parents=True)
    refused = language(tmp_path, "--version", "2")
    assert refused.output.splitlines() == [
        f"trivium: {tmp_path}/mine/2 is there already",
        "         give another --version, or --force to replace it",
    ]
    assert (refused.exit_code, exporter.begun) == (1, 0)
    assert language(tmp_path, "--version", "2", "--force").exit_code == 0
    assert language(tmp_path, "--version", "3").exit_code == 0
    assert exporter.begun == 2


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_folder_that_cannot_be_written_is_known_before_the_work(
    exporter: Exporter, tmp_path: Path, force: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    refused = language(tmp_path / "file" / "below", *force)
    assert refused.output.splitlines() == [
        f"trivium: {tmp_path}/file/below/mine/1 cannot be written: Not a directory",
        "         name a folder that can be written with --out",
    ]
    assert (refused.exit_code, exporter.begun) == (1, 0)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has a folder that takes no files, not root's")
def test_what_root_cannot_write_is_known_too(exporter: Exporter) -> None:
    refused = language(Path("/proc/bundles"))
    assert "/proc/bundles/mine/1 cannot be written: " in refused.output
    assert (refused.exit_code, exporter.begun) == (1, 0)


def test_looking_leaves_nothing_behind(exporter: Exporter, tmp_path: Path) -> None:
    assert language(tmp_path / "not" / "yet").exit_code == 0
    assert (exporter.begun, list(tmp_path.iterdir())) == (1, [])


@pytest.mark.parametrize(("precision", "where"), [("fp32", ""), ("fp16", ""), ("bf16", " on a GPU")])
def test_what_was_written_is_said_with_how_to_serve_it(
    exporter: Exporter, tmp_path: Path, precision: str, where: str
) -> None:
    written = language(tmp_path, "--precision", precision)
    assert (written.exit_code, exporter.begun) == (0, 1)
    assert written.output.startswith(
        f"{tmp_path}/mine/1: written; serve it{where} with TRIVIUM_LANGUAGE__BUNDLES_DIR={tmp_path}"
    )
