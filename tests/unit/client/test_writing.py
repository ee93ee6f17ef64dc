"""Writing: pieces of texts as they are shown."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from trivium.client.text_results import TextPiece, Usage
from trivium.client.writing import Documented, Written


def piece(text: str, choice: int = 0, *, ended: str = "", stop: str = "", seed: int | None = 7, echoed: int = 0) -> Any:
    return TextPiece(
        text=text,
        token_ids=tuple(range(len(text))),
        logprobs=(),
        index=0,
        choice=choice,
        echoed=echoed,
        finish_reason=ended,
        stop_string=stop,
        usage=Usage(1, 2) if ended else None,
        seed=seed,
        model="letters:1",
    )


def clock() -> Iterator[float]:
    """Half a second between any two looks."""
    now = 0.0
    while True:
        yield now
        now += 0.5


def written() -> Written:
    return Written(clock().__next__)


def test_a_text_is_printed_piece_by_piece_and_summed_up_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with written() as shown:
        shown.show(piece("ab"))
        assert capsys.readouterr() == ("ab", "")
        shown.show(piece("cd", ended="length"))
    assert capsys.readouterr() == ("cd\n", "letters:1  4 tokens, 8 tokens/s, length, seed 7\n")
    assert [text.text for text in shown.texts] == ["abcd"]


def test_a_text_that_ends_its_line_gets_no_second_end(capsys: pytest.CaptureFixture[str]) -> None:
    with written() as shown:
        shown.show(piece("ab\n", ended="stop", stop="\n\n", seed=None))
    assert capsys.readouterr() == ("ab\n", 'letters:1  3 tokens, 6 tokens/s, stop "\\n\\n"\n')


def test_a_text_without_words_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with written() as shown:
        shown.show(piece("", ended="length"))
    assert capsys.readouterr() == ("", "letters:1  0 tokens, 0 tokens/s, length, seed 7\n")


def test_further_texts_wait_for_their_turn(capsys: pytest.CaptureFixture[str]) -> None:
    with written() as shown:
        for found in (
            piece("a", 0),
            piece("x", 1),
            piece("1", 2),
            piece("y", 1, ended="stop"),
            piece("2", 2, ended="stop"),
        ):
            shown.show(found)
        assert capsys.readouterr().out == "a"
        shown.show(piece("b", 0, ended="stop"))
    out, err = capsys.readouterr()
    assert out == "b\nxy\n12\n"
    rates = [line.split(", ")[1] for line in err.splitlines()]
    assert rates == ["1 tokens/s", "4 tokens/s", "2 tokens/s"]  # of two tokens after 1.5 s, 0.5 s and 1 s


@pytest.mark.parametrize(
    ("error", "reason"),
    [(KeyboardInterrupt(), "interrupted"), (SystemExit(143), "interrupted"), (ValueError(), "failed")],
)
def test_a_text_that_breaks_off_is_summed_up_too(
    capsys: pytest.CaptureFixture[str], error: BaseException, reason: str
) -> None:
    with pytest.raises(type(error)), written() as shown:  # noqa: PT012
        shown.show(piece("ab", echoed=1))
        raise error
    assert capsys.readouterr() == ("ab\n", f"letters:1  1 token, 2 tokens/s, {reason}, seed 7\n")


def test_what_breaks_off_before_its_first_piece_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), written():
        raise KeyboardInterrupt
    assert capsys.readouterr() == ("", "")


def test_a_terminal_is_not_steered_by_what_a_model_writes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for terminal, shown in ((True, "a\ufffd[2J\tb\ufffd\n"), (False, "a\x1b[2J\tb\x9b\n")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        with written() as text:
            text.show(piece("a\x1b[2J\tb\x9b\n", ended="stop"))
        assert capsys.readouterr().out == shown


def test_json_is_a_line_a_piece(capsys: pytest.CaptureFixture[str]) -> None:
    with Documented() as shown:
        shown.show(piece("é"))
        shown.show(piece("", ended="stop"))
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["text"], first["model"], first["usage"]) == ("é", "letters:1", None)
    assert last["usage"] == {"prompt_tokens": 1, "generated_tokens": 2}
