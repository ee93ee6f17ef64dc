"""Wire: bytes to a caller's message, and a message's bytes with one field more, where each copy of it counts.

Source: protobuf.dev/programming-guides/encoding; a message's bytes may have their fields in any order.
"""

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from services.kit.errors import MalformedRequest

LENGTH_DELIMITED = 2
AnyMessage = TypeVar("AnyMessage", bound=Message)


def parsed(kind: type[AnyMessage], data: bytes) -> AnyMessage:
    """What a caller sent, as a message of that kind.

    Raises:
        MalformedRequest: it is none.
    """
    try:
        return kind.FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        name = kind.DESCRIPTOR.full_name
        raise MalformedRequest(f"the {len(data)} bytes of the request are no {name}", type=name) from error


def with_field(message: Message, field: int, parts: Sequence[bytes | memoryview]) -> bytes:
    """The bytes of `message` whose bytes field number `field`, not set there, holds `parts` one after the other.

    Copies them once, where setting the field and serializing copies them twice.
    """
    size = sum(memoryview(part).nbytes for part in parts)
    return b"".join((message.SerializeToString(), _head(field, size), *parts))


def _head(field: int, size: int) -> bytes:
    """Tag and length."""
    return _varint(field << 3 | LENGTH_DELIMITED) + _varint(size)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
