"""Series as text: numbers in lines, with or without a header, read as they come."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from trivium.client.words import check_open

CHUNK = 64 * 1024  # bytes to ask for at once
LONGEST_LINE = 4 * 1024 * 1024  # bytes
MESSAGE = 1024  # numbers that are sent together; as many steps may be in one message

Read = Callable[[], bytes]  # the bytes that are there, at least one of them; none at the end


class SeriesError(ValueError):
    """The text holds something else than numbers; the message says where."""


class NoNumbers(SeriesError):
    """The text has no numbers at all."""


class ColumnError(SeriesError):
    """The columns to read are not clear."""


@contextmanager
def opened(name: str) -> Iterator[Read]:
    """Reads the file, or standard input where `name` is "-".

    Nothing is buffered: what has been written to a pipe is there at once, and a thread that waits for more of it holds
    no lock that the end of the program would need.

    Raises:
        OSError: the file cannot be opened, or standard input is closed.
    """
    if name == "-":
        check_open()
        yield lambda: os.read(0, CHUNK)
        return
    file = os.open(name, os.O_RDONLY)
    try:
        yield lambda: os.read(file, CHUNK)
    finally:
        os.close(file)


def messages(
    read: Read, columns: Sequence[str] = (), notice: Callable[[str], None] = lambda words: None
) -> Iterator[list[float]]:
    """The numbers of a text, those of the lines that are there together, at most MESSAGE at once.

    A line is divided only if it has more than that. Whatever stands in one line may be one step or several.

    Args:
        columns: which columns to read, by the names that the header has for them; all if there are none.
        notice: told that the first line is taken for a header, where no columns say that there is one.

    Raises:
        NoNumbers: there is no number at all.
        SeriesError: something is no number, or no column is called that.
        OSError: reading fails.
    """
    rows = Rows(columns, notice)
    for lines in _lines(read):
        yield from _grouped(rows.numbers(line) for line in lines)
    if not rows.found:
        raise NoNumbers("no numbers")


class Rows:
    """Reads one line after the other; the first one that is not empty may be a header.

    Attributes:
        found: whether there was a number.
    """

    def __init__(self, columns: Sequence[str] = (), notice: Callable[[str], None] = lambda words: None) -> None:
        self._columns, self._notice = columns, notice
        self._places: list[int] = []  # of the columns to read, if they were named
        self._line, self._begun = 0, False
        self.found = False

    def numbers(self, line: str) -> list[float]:
        """The numbers of the next line: none if it is empty or the header.

        Raises:
            SeriesError: something in it is no number, or is missing.
        """
        self._line += 1
        cells = self._cells(line)
        if not cells:
            return []
        if not self.found and not _is_text(line):
            raise NoNumbers(f"line {self._line} is no text")
        first, self._begun = not self._begun, True
        if first and not any(_is_number(word) for cell in cells for word in cell.split()):
            self._take_header(line, cells)
            return []
        if self._columns and not self._places:
            raise ColumnError(f"line {self._line} is no header, so no column has a name")
        numbers = [self._number(word) for cell in self._picked(cells) for word in cell.split() or [""]]
        self.found = True
        return numbers

    def _cells(self, line: str) -> list[str]:
        if "," not in line:
            return line.split()
        try:
            cells = next(csv.reader([line.strip()], skipinitialspace=True))
        except csv.Error as error:
            raise SeriesError(f"line {self._line}: {error}") from error
        return cells[:-1] if not cells[-1].strip() else cells  # a comma at the end of a line is no missing number

    def _take_header(self, line: str, cells: list[str]) -> None:
        self._places = self._find(cells)
        if not self._columns:
            self._notice(f"line {self._line} is taken for a header: {line.strip()[:40]}")

    def _find(self, header: list[str]) -> list[int]:
        names = [name.strip() for name in header]
        for column in self._columns:
            if column not in names:
                raise ColumnError(f"no column is called {column}; there are {', '.join(names)}")
        if len(names) > 1 and not self._columns:
            raise ColumnError(f"which column? There are {', '.join(names)}; choose with --column")
        return [names.index(column) for column in self._columns]

    def _picked(self, cells: list[str]) -> list[str]:
        if not self._places:
            return cells
        if len(cells) <= max(self._places):
            raise SeriesError(f"line {self._line} has {len(cells)} columns only")
        return [cells[place] for place in self._places]

    def _number(self, word: str) -> float:
        try:
            return float(word)
        except ValueError:
            problem = f"{word[:20]!r} is no number" if word else "a number is missing"
            raise SeriesError(f"line {self._line}: {problem}") from None


def _is_text(line: str) -> bool:
    return not any(character < " " for character in line if not character.isspace())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _lines(read: Read) -> Iterator[list[str]]:
    """The lines that are there together, each as soon as it is complete; the last one needs no end."""
    rest = b""
    while data := read():
        *whole, rest = (rest + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise SeriesError(f"a line of more than {LONGEST_LINE} bytes")
        if whole:
            yield [_text(line) for line in whole]
    if rest:
        yield [_text(rest)]


def _text(line: bytes) -> str:
    return line.decode("utf-8-sig", "replace")


def _grouped(rows: Iterable[list[float]]) -> Iterator[list[float]]:
    """The numbers of whole rows, together where they are at most MESSAGE; an error comes after the rows before it."""
    waiting: list[float] = []
    try:
        for row in rows:
            if len(waiting) + len(row) > MESSAGE:
                yield from _divided(waiting)
                waiting = []
            waiting += row
    except SeriesError:
        yield from _divided(waiting)
        raise
    yield from _divided(waiting)


def _divided(numbers: list[float]) -> Iterator[list[float]]:
    for start in range(0, len(numbers), MESSAGE):
        yield numbers[start : start + MESSAGE]
