"""Wire: bytes to a caller's message, and a message's bytes with one field more, where each copy of it counts.

Source: protobuf.dev/programming-guides/encoding; a message's bytes may have their fields in any order.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from services.kit.errors import MalformedRequest

LENGTH_DELIMITED = 2
MOST_EXPLAINED = 64 * 1024  # bytes of a request in which a text that is none is looked for
AnyMessage = TypeVar("AnyMessage", bound=Message)


def parsed(kind: type[AnyMessage], data: bytes) -> AnyMessage:
    """What a caller sent, as a message of that kind.

    Raises:
        MalformedRequest: it is none, or a text in it is not UTF-8.
    """
    try:
        return kind.FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        name = kind.DESCRIPTOR.full_name
        found = _no_text(kind.DESCRIPTOR, data) if len(data) <= MOST_EXPLAINED else None
        if found is None:
            raise MalformedRequest(f"the {len(data)} bytes of the request are no {name}", type=name) from error
        field, why = found
        message = f"{field} is no UTF-8 text: {why.reason} at byte {why.start}"
        raise MalformedRequest(message, type=name, field=field) from error


def _no_text(kind: Any, data: bytes, path: str = "") -> tuple[str, UnicodeDecodeError] | None:
    """The first field of a message that is no text and should be one; None where the bytes are no fields.

    Args:
        kind: the message's descriptor.
    """
    try:
        fields: Any = UnknownFieldSet(Empty.FromString(data))
    except DecodeError:
        return None
    for field in fields:
        known = kind.fields_by_number.get(field.field_number)
        if known is None or field.wire_type != LENGTH_DELIMITED:
            continue
        name, found = f"{path}{known.name}", None
        if known.type == FieldDescriptor.TYPE_MESSAGE:
            found = _no_text(known.message_type, field.data, f"{name}.")
        elif known.type == FieldDescriptor.TYPE_STRING:
            try:
                field.data.decode()
            except UnicodeDecodeError as error:
                found = name, error
        if found is not None:
            return found
    return None


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
