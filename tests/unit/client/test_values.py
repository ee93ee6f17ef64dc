"""Values: whatever holds numbers becomes a flat list of them."""

from array import array
from typing import Any

import numpy as np
import pytest

from trivium.client.values import flat

STEPS = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3, 4],
        STEPS,
        (step for step in STEPS),
        array("d", [1, 2, 3, 4]),
        np.array(STEPS, np.float32),
        np.array(STEPS)[:, :],
        list(np.array([1, 2, 3, 4], np.int16)),
        np.array([[1, 3], [2, 4]]).T,
    ],
    ids=lambda values: type(values).__name__,
)
def test_numbers_in_any_nesting_come_step_after_step(values: Any) -> None:
    assert flat(values) == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("value", [5, 5.0, np.float32(5), np.array(5)])
def test_a_single_number_is_a_step(value: Any) -> None:
    assert flat(value) == [5.0]


@pytest.mark.parametrize("values", ["12", ["1"], [None], [1, "x"], {"a": 1}])
def test_text_and_nothing_are_no_numbers(values: Any) -> None:
    with pytest.raises(TypeError):
        flat(values)
