"""What the `trivium` command prints on a terminal."""

import io

import pytest
from rich.console import Console

from trivium.client.output import grid

COLUMNS = ("model", "service", "task", "state", "default", "labels")
ROWS = [
    ("digits-cnn:1", "vision", "image-classification", "ready", "yes", "stable"),
    ("handwritten-digits:12", "vision", "image-classification", "unloaded", "", "stable, canary"),
]


def shown(width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width).print(grid(COLUMNS, ROWS, elastic="labels"))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_narrow_terminal_folds_one_column_between_words_and_cuts_nothing() -> None:
    header, first, second, rest = shown(80)
    assert header.split() == list(COLUMNS)
    assert first.split() == ["digits-cnn:1", "vision", "image-classification", "ready", "yes", "stable"]
    assert second.split() == ["handwritten-digits:12", "vision", "image-classification", "unloaded", "stable,"]
    assert rest.split() == ["canary"]


@pytest.mark.parametrize("width", [100, 300])
def test_a_wide_terminal_has_one_line_a_row(width: int) -> None:
    assert len(shown(width)) == 1 + len(ROWS)
