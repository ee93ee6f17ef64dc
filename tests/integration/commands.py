"""Commands that run in this process or at a terminal, and files for them."""

import os
from pathlib import Path
from typing import Any

from click.testing import CliRunner


def run(command: Any, *arguments: str, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(command, arguments, input=stdin)


def written(folder: Path, text: str) -> str:
    path = folder / "series.csv"
    path.write_text(text)
    return str(path)


def read(terminal: int) -> bytes:
    """What the program writes next; nothing once it has ended."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # nobody has the other end open
        return b""
