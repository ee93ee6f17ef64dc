"""Values: numbers as callers have them, one, many or nested, made flat for a message."""

from collections.abc import Iterable, Iterator
from typing import SupportsFloat, TypeAlias

# A number, or numbers in any nesting: lists, generators, arrays of numpy and its like.
Values: TypeAlias = "SupportsFloat | Iterable[Values]"


def flat(values: Values) -> list[float]:
    """All numbers of `values`, in order; of an array [steps][width] those of one step after the other.

    Raises:
        TypeError, ValueError: there is something else than a number.
    """
    return list(_numbers(values))


def _numbers(values: Values) -> Iterator[float]:
    if isinstance(values, str):
        raise TypeError(f"values are numbers, not text: {values[:20]!r}")
    if hasattr(values, "tolist"):  # arrays: quicker than number by number, and right for those without a dimension
        values = values.tolist()
    if isinstance(values, Iterable):
        for item in values:
            yield from _numbers(item)
    else:
        yield float(values)
