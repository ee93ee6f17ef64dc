"""Prompts: texts and tokens as callers have them."""

from array import array
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from trivium.client.prompts import real, split, text, texts, tokens


@pytest.mark.parametrize("prompt", [[1, 2, 3], (1, 2, 3), iter([1, 2, 3]), array("I", [1, 2, 3]), np.array([1, 2, 3])])
def test_tokens_come_in_whatever_holds_whole_numbers(prompt: Any) -> None:
    assert split("prompt", prompt) == ("", [1, 2, 3])


def test_a_text_is_no_list_of_tokens() -> None:
    assert split("prompt", "1日") == ("1日", [])
    assert split("prompt", "") == ("", [])


@pytest.mark.parametrize(
    ("prompt", "kind", "says"),
    [
        (b"def", TypeError, "prompt is a str or a list of tokens, not b'def'"),
        (5, TypeError, "prompt is a str or a list of tokens, not 5"),
        (None, TypeError, "prompt is a str or a list of tokens, not None"),
        ([], ValueError, "prompt has no tokens"),
        ([1, "a"], TypeError, r"prompt\[1\] is no token: 'a'"),
        ([1.0], TypeError, r"prompt\[0\] is no token: 1.0"),
        ([-1], ValueError, r"prompt\[0\] is in \[0, 4294967295\], not -1"),
        (["x" * 100], TypeError, r"prompt\[0\] is no token: 'x+\.\.\."),
        ("a\ud800", ValueError, "prompt is no text: character 1 is a lone surrogate"),
    ],
)
def test_what_no_message_can_hold_is_refused_by_name_and_place(prompt: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        split("prompt", prompt)


def test_one_text_or_several_may_be_given() -> None:
    assert [texts("stop", found) for found in ("ab", ["a", "b"], ())] == [["ab"], ["a", "b"], []]
    none: Any = 3
    with pytest.raises(TypeError, match="text is a text, not 3"):
        text("text", none)
    with pytest.raises(TypeError, match="token_ids is a list of tokens, not '12'"):
        tokens("token_ids", "12")  # type: ignore[arg-type]


def test_a_number_is_whatever_can_be_one_but_not_its_text() -> None:
    assert [real("top_p", value) for value in (None, 1, 0.5, np.float32(0.5), Fraction(1, 2))] == [
        None,
        1,
        0.5,
        0.5,
        0.5,
    ]
    for wrong in ("0.5", b"1", [0.5]):
        with pytest.raises(TypeError, match="top_p is a number, not"):
            real("top_p", wrong)  # type: ignore[arg-type]
