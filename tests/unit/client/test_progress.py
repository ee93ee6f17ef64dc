"""Progress: where a stream's state is left, and what is said when it ends."""

import os
import sys
from pathlib import Path

import pytest

from trivium.client.progress import Progress
from trivium.client.results import TrackAnswer


def answer(step: int, state: bytes = b"") -> TrackAnswer:
    return TrackAnswer(step=step, classes=(), values=(), state=state, model="model:1")


def ended(path: Path | None, answers: list[TrackAnswer], code: int, resumed: bytes = b"") -> int:
    """The exit code of a command that ends with `code` after these answers."""
    try:
        with Progress(path) as progress:
            progress.resume(resumed)
            for found in answers:
                progress.answered(found)
            if code:
                sys.exit(code)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


@pytest.mark.parametrize("code", [0, 1, 3, 130, 143])
def test_the_last_state_is_in_the_file_however_the_stream_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"older")
    assert ended(path, [answer(3, b"three"), answer(4)], code) == code
    assert path.read_bytes() == b"three"
    assert [found.name for found in tmp_path.iterdir()] == ["state"]
    said = capsys.readouterr().err
    assert ("the stream stopped after step 4" in said) == (code != 0)
    assert (f"the state after step 3 is saved, go on with --resume {path}" in said) == (code != 0)


def test_without_an_answer_the_file_stays_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"older")
    assert [ended(path, [], code) for code in (0, 1)] == [1, 1]
    assert ended(path, [], 3, resumed=b"other") == 3
    assert path.read_bytes() == b"older"
    assert capsys.readouterr().err.count("nothing was answered, so there is no state to save") == 3


def test_a_stream_that_only_was_resumed_keeps_its_state(tmp_path: Path) -> None:
    assert ended(tmp_path / "state", [], 0, resumed=b"before") == 0
    assert (tmp_path / "state").read_bytes() == b"before"


@pytest.mark.parametrize(("code", "says"), [(1, "stopped after step 2"), (130, ""), (0, "")])
def test_without_a_file_only_a_failure_is_worth_a_word(
    capsys: pytest.CaptureFixture[str], code: int, says: str
) -> None:
    assert ended(None, [answer(2)], code) == code
    said = capsys.readouterr().err
    assert says in said
    assert bool(says) == bool(said)


def test_a_place_that_cannot_hold_a_file_is_refused_at_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("pipe", ".", "none/state", "circle", "x" * 300, "/dev/null"):
        with pytest.raises(ValueError, match=name if name.isalpha() else None) as caught:
            Progress(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_what_has_become_no_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state"
    progress = Progress(path)
    progress.answered(answer(1, b"one"))
    os.mkfifo(path)
    with pytest.raises(SystemExit):
        progress.__exit__(None, None, None)
    assert path.is_fifo()
    assert "the state is not saved" in capsys.readouterr().err
    assert [found.name for found in tmp_path.iterdir()] == ["state"]


def test_a_link_stays_a_link_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("state")
    assert ended(tmp_path / "link", [answer(1, b"one")], 0) == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "state").read_bytes() == b"one"
