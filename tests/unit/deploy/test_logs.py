"""Log files stay small, whoever writes them."""

import asyncio
import shutil
from pathlib import Path

import pytest

from deploy.local import logs
from deploy.local.child import last_lines
from deploy.local.logs import bound, kept_bounded


def test_a_large_log_is_set_aside_and_its_writer_goes_on_from_the_beginning(tmp_path: Path) -> None:
    log, aside = tmp_path / "vision-1.log", tmp_path / "vision-1.log.1"
    aside.write_text("of the last run")
    with log.open("ab", buffering=0) as writer:
        writer.write(b"first\n" * 100)
        bound(tmp_path, largest_bytes=600)
        assert log.stat().st_size == 600
        writer.write(b"one more\n")
        bound(tmp_path, largest_bytes=600)
        writer.write(b"then\n")
    assert aside.read_bytes() == b"first\n" * 100 + b"one more\n"
    assert log.read_bytes() == b"then\n"


def test_a_log_is_emptied_even_where_the_disk_has_no_room_for_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    (tmp_path / "vision-1.log").write_bytes(bytes(100))
    bound(tmp_path, largest_bytes=50)
    assert [(found.name, found.stat().st_size) for found in tmp_path.iterdir()] == [("vision-1.log", 0)]


def test_the_last_lines_of_a_child_are_found_after_its_log_was_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "vision-1.log"
    log.write_bytes(b"error: no bundle\n")
    assert last_lines(log, 5, since=1000) == ["error: no bundle"]
    assert last_lines(log, 5, since=7) == ["no bundle"]


async def test_the_logs_of_a_run_are_looked_after_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, looked, folders = asyncio.get_running_loop(), asyncio.Event(), list[Path]()

    def look(folder: Path) -> None:
        folders.append(folder)
        loop.call_soon_threadsafe(looked.set)

    monkeypatch.setattr(logs, "bound", look)
    monkeypatch.setattr(logs, "LOOK_S", 0)
    async with kept_bounded(tmp_path):
        for _ in range(2):
            await asyncio.wait_for(looked.wait(), 5)
            looked.clear()
    assert set(folders) == {tmp_path}
