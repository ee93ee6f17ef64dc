"""Progress: what the launcher tells the person who started it, each line with its time."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.text import Text


class _Console(Console):
    """A console whose reader may leave: the run goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes there


class Progress:
    """Prints lines to standard output: coloured on a terminal, plain and never wrapped elsewhere."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._clock, self._started = clock, clock()

    def step(self, text: str) -> None:
        """Something was done."""
        self._print(text)

    def problem(self, text: str, details: Iterable[str] = ()) -> None:
        """Something went wrong; the details are lines of someone else's output."""
        self._print(text, "bold red")
        for line in details:
            self._write(Text(f"           | {line}", "dim"))

    def ready(self, addresses: Sequence[tuple[str, str]]) -> None:
        """Everything is up: one line that begins with "ready" and names the addresses."""
        line = Text().append("ready", "bold green")
        for name, address in addresses:
            line.append(f"  {name} ", "dim").append(address)
        self._write(line)

    def note(self, text: str) -> None:
        """A line without a time."""
        self._write(Text(text))

    def _print(self, text: str, style: str = "") -> None:
        time_passed = f"{self._clock() - self._started:8.2f} s "
        self._write(Text().append(time_passed, "dim").append(text, style))

    def _write(self, line: Text) -> None:
        with contextlib.suppress(OSError):  # a terminal that was closed
            self._console.print(line)
