"""What the `trivium` command prints: tables for people, tab-separated lines for pipes, JSON for programs."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

NARROWEST = 8  # characters that are left to an elastic column


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], elastic: str) -> None:
    """Prints rows under their columns; without a terminal as plain lines with tabs, which nothing cuts or wraps.

    Args:
        elastic: the column whose cells are folded where the terminal is too narrow for all.
    """
    if sys.stdout.isatty():
        Console(highlight=False).print(grid(columns, rows, elastic))
        return
    for row in (columns, *rows):
        click.echo("\t".join(str(cell) for cell in row))


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]], elastic: str) -> Table:
    """The table as a terminal shows it."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        if column == elastic:
            made.add_column(column, overflow="fold", min_width=NARROWEST)
        else:
            made.add_column(column, overflow="ellipsis", no_wrap=True)
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def as_json(value: Any) -> None:
    """Prints a JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def quoted(text: str) -> str:
    """The text in quotation marks, with ends of lines and what else cannot be seen as escapes."""
    return json.dumps(text, ensure_ascii=False)


def complain(message: str, hint: str = "") -> None:
    """Prints to standard error what went wrong, and what to do about it."""
    click.echo(f"trivium: {message}", err=True)
    if hint:
        click.echo(f"         {hint}", err=True)
