"""Values: whatever holds numbers becomes a flat list of them, with the width of the steps where it can be seen."""

from array import array
from typing import Any

import numpy as np
import pytest

from trivium.client.values import agreed, flat, limited, stated_width

STEPS = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("values", "width"),
    [
        ([1, 2, 3, 4], None),
        (STEPS, 2),
        ((step for step in STEPS), 2),
        ((iter(step) for step in STEPS), 2),
        (array("d", [1, 2, 3, 4]), None),
        (np.array(STEPS, np.float32), 2),
        (np.array(STEPS)[:, :], 2),
        (list(np.array(STEPS)), 2),
        (list(np.array([1, 2, 3, 4], np.int16)), None),
        (np.array([[1, 3], [2, 4]]).T, 2),
        (np.array([[1], [2], [3], [4]]), 1),
    ],
    ids=lambda values: type(values).__name__,
)
def test_numbers_come_step_after_step_with_the_width_of_nested_ones(values: Any, width: int | None) -> None:
    assert flat(values) == ([1.0, 2.0, 3.0, 4.0], width)


@pytest.mark.parametrize("value", [5, 5.0, np.float32(5), np.array(5)])
def test_a_single_number_is_a_step(value: Any) -> None:
    assert flat(value) == ([5.0], None)


@pytest.mark.parametrize("values", [[], [[]], np.zeros((0, 2))])
def test_no_numbers_have_no_width(values: Any) -> None:
    assert flat(values) == ([], None)


@pytest.mark.parametrize("values", ["12", ["1"], [["1"]], [None], [[None]], [1, "x"], {"a": 1}])
def test_text_and_nothing_are_no_numbers(values: Any) -> None:
    with pytest.raises(TypeError):
        flat(values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([[1, 2], [3, 4], [5]], r"values\[2\] is 1 numbers long, and those before it are 2 numbers long"),
        ([[1], 2], r"values\[1\] is a single number"),
        ([1, [2]], r"values\[1\] is 1 numbers long, and those before it are a single number"),
        ([[], [1]], r"values\[1\]"),
        (np.zeros((1, 2, 3)), "not nested deeper"),
    ],
)
def test_steps_that_differ_or_hold_more_than_numbers_are_refused(values: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        flat(values)


@pytest.mark.parametrize(
    ("values", "width"),
    [
        (np.zeros((3, 2)), 2),
        (np.zeros((5, 3, 2)), 2),
        ([np.zeros((3, 2))], 2),
        ([STEPS, STEPS], 2),
        (STEPS, None),  # two messages, and each may be one step or two
        (np.zeros(3), None),
        ([1, STEPS], 2),
        ([[1, 2, 3, 4], STEPS], 2),
        ([1, [2, 3]], None),
        ([[[]], STEPS], 2),
        ([], None),
        (iter([STEPS]), None),
    ],
)
def test_what_a_stream_will_send_says_its_width_before_any_of_it_is_taken(values: Any, width: int | None) -> None:
    assert stated_width(values) == width


def test_the_items_of_a_stream_agree_on_their_width() -> None:
    four = [1.0, 2.0, 3.0, 4.0]
    assert [agreed(None, four, None), agreed(None, four, 2), agreed(2, four, None), agreed(2, four, 2)] == [
        None,
        2,
        2,
        2,
    ]
    with pytest.raises(ValueError, match="steps of 4 numbers in a stream whose steps have 2"):
        agreed(2, four, 4)
    with pytest.raises(ValueError, match="4 numbers in a stream whose steps have 3"):
        agreed(3, four, None)
    assert agreed(3, [], None) == 3


def test_a_limited_number_is_whole_and_in_its_range() -> None:
    assert [limited("top_k", value, 100) for value in (None, 1, np.int64(100))] == [None, 1, 100]
    assert [limited("n", value, 8, least=0) for value in (0, 8)] == [0, 8]
    for value in (-1, 0, 101):
        with pytest.raises(ValueError, match=rf"top_k is in \[1, 100\], not {value}"):
            limited("top_k", value, 100)
    for wrong in ("5", 2.5):
        with pytest.raises(TypeError, match="top_k is a whole number"):
            limited("top_k", wrong, 100)  # type: ignore[arg-type]
