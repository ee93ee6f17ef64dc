"""Prompts: texts as callers have them, as characters or as tokens, made ready for a message."""

import operator
from collections.abc import Iterable
from typing import SupportsFloat, SupportsIndex, TypeAlias

from trivium.client.values import limited

# A text, or the tokens of one: lists, generators, arrays of numpy and its like.
Prompt: TypeAlias = "str | Iterable[SupportsIndex]"

LARGEST = 2**32 - 1  # of what a message can hold as a token


def split(name: str, prompt: Prompt) -> tuple[str, list[int]]:
    """The prompt as text or, where it is given so, as tokens; the other one is empty.

    Raises:
        TypeError: it is neither.
        ValueError: the text has a lone surrogate, which UTF-8 cannot hold; there are no tokens, or one is out of range.
    """
    if isinstance(prompt, str):
        return text(name, prompt), []
    if isinstance(prompt, bytes | bytearray) or not isinstance(prompt, Iterable):
        raise TypeError(f"{name} is a str or a list of tokens, not {_shown(prompt)}")
    found = tokens(name, prompt)
    if not found:
        raise ValueError(f"{name} has no tokens; an empty text is ''")
    return "", found


def text(name: str, value: str) -> str:
    """The text, which a message can hold.

    Raises:
        TypeError: it is no text.
        ValueError: it has a lone surrogate.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is no text: character {error.start} is a lone surrogate") from None
    return value


def texts(name: str, values: str | Iterable[str]) -> list[str]:
    """One text or several, as a list; errors are those of `text`."""
    return [text(name, value) for value in ([values] if isinstance(values, str) else values)]


def tokens(name: str, ids: Iterable[SupportsIndex]) -> list[int]:
    """The tokens as whole numbers.

    Raises:
        TypeError: there is something else than whole numbers.
        ValueError: one of them is no token of any model: it is negative, or has more than 32 bits.
    """
    if isinstance(ids, str | bytes | bytearray) or not isinstance(ids, Iterable):
        raise TypeError(f"{name} is a list of tokens, not {_shown(ids)}")
    return [_token(f"{name}[{place}]", value) for place, value in enumerate(ids)]


def real(name: str, value: SupportsFloat | None) -> float | None:
    """A number, or None if it was not given.

    Raises:
        TypeError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} is a number, not {_shown(value)}")
    return float(value)


def _token(name: str, value: SupportsIndex) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is no token: {_shown(value)}") from None
    limited(name, number, LARGEST, least=0)
    return number


def _shown(value: object) -> str:
    """What was given, cut short."""
    found = repr(value)
    return found if len(found) <= 40 else f"{found[:37]}..."
