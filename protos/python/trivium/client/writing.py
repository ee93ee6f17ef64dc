"""Writing: texts shown while they are written, on a terminal, in a pipe or as JSON."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType

import click

from trivium.client.output import quoted
from trivium.client.text_results import Completion, TextPiece, completions

# What a model writes must not steer the terminal; line ends and tabs are text.
CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Written:
    """A context manager that prints the texts of one call as they come: the first at once, others in their turn.

    A dim line on standard error says of each text who wrote it, how long and fast, why it ended, and its seed.

    Args:
        clock: seconds, for the pace of writing.

    Attributes:
        texts: those that have ended.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.texts: list[Completion] = []
        self._clock, self._started = clock, clock()
        self._terminal = sys.stdout.isatty()
        self._pieces: dict[int, list[TextPiece]] = {}  # of texts that have not been printed to their end
        self._ended: dict[int, float] = {}  # seconds that each text took
        self._open = False  # whether what was printed last ends within a line

    def __enter__(self) -> "Written":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, OSError) and len(self.texts) in self._pieces:
            self._end("interrupted" if not isinstance(error, Exception) else "failed")

    def show(self, piece: TextPiece) -> None:
        """Prints the piece if its text has its turn, and at the end of that the texts that have waited for it."""
        if piece.finish_reason:
            self._ended[piece.choice] = self._clock() - self._started
        self._pieces.setdefault(piece.choice, []).append(piece)
        if piece.choice != len(self.texts):
            return
        self._print(piece.text)
        while (pieces := self._pieces.get(len(self.texts))) and (reason := pieces[-1].finish_reason):
            self._end(reason)
            for waiting in self._pieces.get(len(self.texts), ()):
                self._print(waiting.text)

    def _print(self, text: str) -> None:
        if text:
            # With colours allowed, click takes nothing out of the text.
            click.echo(text.translate(CONTROLS) if self._terminal else text, nl=False, color=True)
            self._open = not text.endswith("\n")

    def _end(self, reason: str) -> None:
        """Ends the text that has its turn."""
        if self._open:
            click.echo()
        self._open = False
        (text,) = completions(self._pieces.pop(len(self.texts)))
        seconds = self._ended.get(len(self.texts)) or self._clock() - self._started
        line = summary(text, reason, seconds)
        click.echo(click.style(line, dim=True), err=True)
        self.texts.append(text)


class Documented:
    """Prints each piece as a line of JSON."""

    texts: tuple[Completion, ...] = ()

    def __enter__(self) -> "Documented":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, piece: TextPiece) -> None:
        """Prints the piece."""
        click.echo(json.dumps(asdict(piece), ensure_ascii=False))


def summary(text: Completion, reason: str, seconds: float) -> str:
    """A text that took so long in one line, without its words."""
    ended = f"stop {quoted(text.stop_string)}" if text.stop_string else reason
    made = len(text.token_ids) - text.echoed
    said = [f"{made} token{'s' if made != 1 else ''}", f"{made / max(seconds, 1e-9):.0f} tokens/s", ended]
    said += [] if text.seed is None else [f"seed {text.seed}"]
    return f"{text.model}  {', '.join(said)}"
