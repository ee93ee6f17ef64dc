"""Control: what `trivium stop` asks, the launcher answers."""

import asyncio
from pathlib import Path

import pytest

from deploy.local.control import Refused, ask_to_stop, listening


async def stop(instance: str) -> str:
    if instance != "vision-1":
        raise Refused(f"no instance is called {instance}")
    return "vision-1 has ended"


@pytest.mark.parametrize("folder", ["a run", "deep/" * 40])
async def test_the_launcher_answers_whatever_the_length_of_the_path(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder
    path.mkdir(parents=True)
    async with listening(path, stop):
        assert await asyncio.to_thread(ask_to_stop, path, "vision-1") == "vision-1 has ended"
        with pytest.raises(Refused, match="no instance is called vision-9"):
            await asyncio.to_thread(ask_to_stop, path, "vision-9")
    assert list(path.iterdir()) == []


async def test_without_a_run_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no run is up"):
        ask_to_stop(tmp_path, "vision-1")


async def test_a_socket_that_a_killed_launcher_left_is_no_run_and_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "control").touch()
    with pytest.raises(Refused, match="no run is up"):
        ask_to_stop(tmp_path, "vision-1")
    async with listening(tmp_path, stop):
        assert await asyncio.to_thread(ask_to_stop, tmp_path, "vision-1") == "vision-1 has ended"
