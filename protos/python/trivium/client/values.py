"""Values: numbers as callers have them, one, many or nested, made flat for a message; limits of other arguments."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias

# A number, numbers, or steps of numbers: lists, generators, arrays of numpy and its like.
Values: TypeAlias = "SupportsFloat | Iterable[Values]"

LARGEST_COUNT = 2**32 - 1  # that a message can hold


def flat(values: Values) -> tuple[list[float], int | None]:
    """All numbers of `values`, in order, and how many of them are a step, where that can be seen.

    Returns:
        The numbers; of [steps][width] those of one step after the other, and `width`, else None.

    Raises:
        TypeError: there is something else than a number.
        ValueError: the steps are not of one width, or `values` are nested deeper.
    """
    whole = _plain(values)
    if not isinstance(whole, Iterable):
        return [_number(whole)], None
    numbers: list[float] = []
    width: int | None = None
    for place, item in enumerate(map(_plain, whole)):
        row = [_number(_plain(value)) for value in item] if isinstance(item, Iterable) else None
        size = None if row is None else len(row)
        if place and size != width:
            raise ValueError(f"values[{place}] is {_counted(size)}, and those before it are {_counted(width)}")
        width = size
        numbers += [_number(item)] if row is None else row
    return numbers, width or None


def stated_width(values: object) -> int | None:
    """The width of the steps in a stream's items, where they can be looked at without taking one: in an array
    [steps][width] or [items][steps][width], and in a list with an item [steps][width]."""
    shape = _shape(values)
    if hasattr(values, "shape"):
        return (shape[-1] or None) if len(shape) in (2, 3) else None
    nested = (_shape(item) for item in values) if isinstance(values, list | tuple) else ()
    return next((found[1] for found in nested if len(found) == 2 and found[1]), None)


def agreed(known: int | None, numbers: Sequence[float], width: int | None) -> int | None:
    """The width of a stream's steps, after an item of so many numbers whose steps are of `width`, if they are nested.

    Raises:
        ValueError: it is not the one that was known, or the numbers are no whole steps of that.
    """
    if known and width and known != width:
        raise ValueError(f"steps of {width} numbers in a stream whose steps have {known}")
    if known and len(numbers) % known:
        raise ValueError(f"{len(numbers)} numbers in a stream whose steps have {known}")
    return known or width


def limited(name: str, value: SupportsIndex | None, most: int = LARGEST_COUNT, *, least: int = 1) -> int | None:
    """A whole number in [`least`, `most`], or None if it was not given.

    Raises:
        TypeError, ValueError: it is something else.
    """
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a whole number, not {value!r}") from None
    if not least <= number <= most:
        raise ValueError(f"{name} is in [{least}, {most}], not {number}")
    return number


def _plain(value: Any) -> Any:
    """Arrays as lists: quicker than number by number, and right for those without a dimension."""
    if isinstance(value, str):
        raise TypeError(f"values are numbers, not text: {value[:20]!r}")
    return value.tolist() if hasattr(value, "tolist") else value


def _number(value: Any) -> float:
    if isinstance(value, Iterable):
        raise ValueError("values are [steps] or [steps][width], not nested deeper")
    return float(value)


def _counted(size: int | None) -> str:
    return "a single number" if size is None else f"{size} numbers long"


def _shape(values: Any) -> tuple[int, ...]:
    if hasattr(values, "shape"):
        return tuple(values.shape)
    if isinstance(values, list | tuple):
        return (len(values), *(_shape(values[0]) if values else ()))
    return ()
