"""What the `trivium` command prints: tables for people, tab-separated lines for pipes, JSON for programs."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows under their columns; without a terminal as plain lines with tabs, which nothing cuts or wraps."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(str(cell) for cell in row))
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    Console(highlight=False).print(grid)


def as_json(value: Any) -> None:
    """Prints a JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def complain(message: str, hint: str = "") -> None:
    """Prints to standard error what went wrong, and what to do about it."""
    click.echo(f"trivium: {message}", err=True)
    if hint:
        click.echo(f"         {hint}", err=True)
