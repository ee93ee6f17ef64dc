"""Words: texts among the arguments of a command, and what standard input has."""

import errno
import sys
from typing import Any

import click

from trivium.client.output import complain
from trivium.client.progress import FAILED
from trivium.client.prompts import text as checked


class Words(click.ParamType):  # type: ignore[type-arg]  # it takes a type only from click 8.4 on
    """A text that a message can hold, or "-" for standard input."""

    name = "text"

    def __init__(self, *, reads: bool = True) -> None:
        self._reads = reads

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> str:
        if value == "-" and self._reads:
            return _standard_text()
        try:
            return checked("text", value)
        except ValueError:
            self.fail("no UTF-8 text", param, context)


def standard_input() -> bytes:
    """All of it.

    Raises:
        OSError: it cannot be read.
    """
    check_open()
    return sys.stdin.buffer.read()


def check_open() -> None:
    """Standard input can be read.

    Raises:
        OSError: it is closed; whatever was opened since may have its number.
    """
    if sys.stdin is None:  # as a shell's <&- leaves it
        raise OSError(errno.EBADF, "is closed", "standard input")


def _standard_text() -> str:
    """All of standard input, as it is; ends the command where that is no text."""
    try:
        return standard_input().decode()
    except UnicodeDecodeError as error:
        complain(f"standard input is no UTF-8 text: byte {error.start + 1}")
    except OSError as error:
        complain(f"standard input: {error.strerror}")
    sys.exit(FAILED)
