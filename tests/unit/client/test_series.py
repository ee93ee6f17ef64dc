"""Series as text: what is a number, a header, a column, and what is sent together."""

from collections.abc import Iterable, Iterator

import pytest

from trivium.client.series import (
    LONGEST_LINE,
    MESSAGE,
    ColumnError,
    NoNumbers,
    Read,
    Rows,
    SeriesError,
    messages,
    opened,
)


def reader(chunks: Iterable[bytes]) -> Read:
    """Reads one chunk after the other, then the end."""
    left = iter(chunks)
    return lambda: next(left, b"")


def numbers(text: str, *columns: str) -> list[float]:
    return [number for message in messages(reader([text.encode()]), columns) for number in message]


@pytest.mark.parametrize(
    "text",
    ["1,2,3\n", "1 2 3", "1\n2\n3\n", "1, 2,\n3,\n", "\n\n1\t2\r\n3\r\n", "value\n1\n2\n3", "\ufeffvalue\n1\n2\n3"],
)
def test_numbers_are_divided_by_commas_blanks_and_lines_below_an_optional_header(text: str) -> None:
    assert numbers(text) == [1.0, 2.0, 3.0]


def test_of_a_file_with_columns_the_named_ones_are_read_in_the_order_of_their_names() -> None:
    text = '"year", sunspots ,wind\n1700,5,0.5\n1701,11,0.25\n'
    assert numbers(text, "sunspots") == [5.0, 11.0]
    assert numbers(text, "wind", "sunspots") == [0.5, 5.0, 0.25, 11.0]
    assert numbers("year sunspots\n1700 5\n", "sunspots") == [5.0]


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("year,sunspots\n1700,5\n", (), "which column? There are year, sunspots; choose with --column"),
        ("year,sunspots\n1700,5\n", ("spots",), "no column is called spots; there are year, sunspots"),
        ("1700,5\n", ("sunspots",), "line 1 is no header, so no column has a name"),
    ],
)
def test_an_unclear_column_is_never_guessed(text: str, columns: tuple[str, ...], says: str) -> None:
    with pytest.raises(ColumnError) as caught:
        numbers(text, *columns)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("1\n2\nx\n", (), "line 3: 'x' is no number"),
        ("1,two\n", (), "line 1: 'two' is no number"),
        ("1,,3\n", (), "line 1: a number is missing"),
        ("year,sunspots\n1700,\n", ("sunspots",), "line 2 has 1 columns only"),
        ("year,sunspots,wind\n1700,,1\n", ("sunspots",), "line 2: a number is missing"),
        ("value\nvalue\n", (), "line 2: 'value' is no number"),
    ],
)
def test_what_is_no_number_is_named_with_its_line(text: str, columns: tuple[str, ...], says: str) -> None:
    with pytest.raises(SeriesError) as caught:
        numbers(text, *columns)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("value\n1\n", (), ["line 1 is taken for a header: value"]),
        ("\n1;2\n3", (), ["line 2 is taken for a header: 1;2"]),
        ("year,value\n1,2\n", ("value",), []),
        ("1\n", (), []),
    ],
)
def test_a_header_that_nobody_spoke_of_is_said(text: str, columns: tuple[str, ...], says: list[str]) -> None:
    said: list[str] = []
    list(messages(reader([text.encode()]), columns, said.append))
    assert said == says


@pytest.mark.parametrize(
    "data", [b"", b"\n \n", b"1;2", b"value\n", b"\x89PNG\r\n\x1a\n\x00,\x00,\x01\n1\n", b"\x7fELF\x02"]
)
def test_a_text_without_numbers_is_an_error_of_its_own(data: bytes) -> None:
    with pytest.raises(NoNumbers):
        list(messages(reader([data])))


def test_a_line_is_sent_as_soon_as_it_is_complete() -> None:
    asked = []

    def chunks() -> Iterator[bytes]:
        for chunk in (b"1\n2", b"5\n", b"3", b"6"):
            asked.append(chunk)
            yield chunk

    found = messages(reader(chunks()))
    assert (next(found), len(asked)) == ([1.0], 1)
    assert (next(found), len(asked)) == ([25.0], 2)
    assert list(found) == [[36.0]]


def test_lines_that_are_there_together_are_sent_together_and_stay_whole() -> None:
    assert list(messages(reader([b"1 2\n3 4\n"]))) == [[1.0, 2.0, 3.0, 4.0]]
    line = ",".join(["1"] * 600) + "\n"
    assert [len(message) for message in messages(reader([line.encode() * 3]))] == [600, 600, 600]


def test_a_line_of_more_than_a_message_is_divided() -> None:
    assert [len(message) for message in messages(reader([b"1 " * (2 * MESSAGE + 1)]))] == [MESSAGE, MESSAGE, 1]


def test_the_numbers_before_a_bad_line_are_sent_before_the_error() -> None:
    found = messages(reader([b"1\n2\nx\n3\n"]))
    assert next(found) == [1.0, 2.0]
    with pytest.raises(SeriesError):
        next(found)


def test_a_line_without_an_end_does_not_grow_for_ever() -> None:
    endless = iter(lambda: b"1" * (LONGEST_LINE // 4), b"")
    with pytest.raises(SeriesError, match="a line of more than"):
        list(messages(reader(endless)))


def test_a_first_line_with_any_number_is_no_header() -> None:
    with pytest.raises(SeriesError):
        Rows().numbers("year,1700")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: object) -> None:
    with pytest.raises(FileNotFoundError), opened(f"{tmp_path}/none.csv"):
        pass
