"""BYTES tensors: elements with their length before them on the wire, arrays of str inside."""

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from services.kit.errors import InputTooLarge, InvalidField
from services.kit.inference.bundle import Array

LENGTH = struct.Struct("<I")  # before each element, in bytes
MAX_STRINGS = 100_000  # elements of one tensor: each is a Python object


def from_raw(data: bytes, count: int, name: str, model: str) -> Array:
    """object [count], each element a str, from what raw_input_contents holds for input `name`.

    Raises:
        InvalidField: more or fewer elements, an incomplete one, or one that is no UTF-8.
        InputTooLarge: more than MAX_STRINGS elements.
    """
    _check_limit(count, name)
    return _array(list(_split(data, count, name, model)), count, name, model)


def from_list(elements: Sequence[bytes], count: int, name: str, model: str) -> Array:
    """object [count], each element a str, from bytes_contents.

    Raises:
        InvalidField, InputTooLarge: as for `from_raw`.
    """
    _check_limit(count, name)
    return _array(elements, count, name, model)


def to_raw(array: Array) -> bytes:
    """The elements of an array of str or bytes, row by row, each after its length."""
    parts: list[bytes] = []
    for element in array.ravel():
        data = element if isinstance(element, bytes) else str(element).encode()
        parts += (LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _split(data: bytes, count: int, name: str, model: str) -> Iterator[bytes]:
    position, found = 0, 0
    while position < len(data):
        left = len(data) - position
        if left < LENGTH.size:
            raise InvalidField(
                f"incomplete string length indicator for inference input '{name}' for model '{model}', expecting "
                f"{LENGTH.size} bytes but only {left} bytes available.",
                field=f"inputs[{name}]",
                limit=str(LENGTH.size),
                value=str(left),
            )
        (length,) = LENGTH.unpack_from(data, position)
        position += LENGTH.size
        if length > len(data) - position:
            raise InvalidField(
                f"incomplete string data for inference input '{name}', expecting string of length {length} but only "
                f"{len(data) - position} bytes available",
                field=f"inputs[{name}]",
                limit=str(length),
                value=str(len(data) - position),
            )
        found += 1
        if found > count:
            raise _wrong_count(found, count, name, model)
        yield data[position : position + length]
        position += length


def _array(elements: Sequence[bytes], count: int, name: str, model: str) -> Array:
    if len(elements) != count:
        raise _wrong_count(len(elements), count, name, model)
    array = np.empty(count, np.object_)
    for index, element in enumerate(elements):
        try:
            array[index] = element.decode()
        except UnicodeDecodeError as error:
            raise InvalidField(
                f"element {index} of input '{name}' is no UTF-8 text: {error.reason} at byte {error.start}",
                field=f"inputs[{name}]",
                value=str(index),
            ) from None
    return array


def _check_limit(count: int, name: str) -> None:
    if count > MAX_STRINGS:
        raise InputTooLarge(
            f"input '{name}' has {count} elements and the limit for BYTES is {MAX_STRINGS}",
            field=f"inputs[{name}].shape",
            limit=str(MAX_STRINGS),
            value=str(count),
        )


def _wrong_count(got: int, expected: int, name: str, model: str) -> InvalidField:
    if got > expected:
        message = f"unexpected number of string elements {got} for inference input '{name}' for model '{model}', "
        message += f"expecting {expected}"
    else:
        message = f"expected {expected} string elements for inference input '{name}' for model '{model}', got {got}"
    return InvalidField(message, field=f"inputs[{name}]", limit=str(expected), value=str(got))
