"""Where a method's model and version are in its bytes, and how to read them without parsing the message.

Source of the wire format: protobuf.dev/programming-guides/encoding. Like every parser, the scan takes the last
occurrence of a field, wherever it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from services.kit.errors import MalformedRequest

OIP = "/inference.GRPCInferenceService/"
MODEL_SERVICE = "/trivium.models.v1.ModelService/"
STREAM_INFER = f"{OIP}ModelStreamInfer"
MANY_FIELDS = 256  # top-level fields after which protobuf's own parser is quicker than the scan

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Address:
    """Field numbers of a request's model and version; 0 where the request has none."""

    model: int
    version: int = 0
    per_message: bool = False  # of a stream: every message names its own model, not only the first one


TYPED = Address(model=1)  # "name", "name:version" or "name@label"
VERSIONED = Address(model=1, version=2)

# The methods whose requests are not a typed service's; None: the request names no model.
TABLE: dict[str, Address | None] = {
    f"{OIP}ServerLive": None,
    f"{OIP}ServerReady": None,
    f"{OIP}ServerMetadata": None,
    f"{OIP}ModelReady": VERSIONED,
    f"{OIP}ModelMetadata": VERSIONED,
    f"{OIP}ModelConfig": VERSIONED,
    f"{OIP}ModelStatistics": VERSIONED,
    f"{OIP}ModelInfer": VERSIONED,
    STREAM_INFER: Address(model=1, version=2, per_message=True),
    f"{OIP}RepositoryIndex": None,
    f"{OIP}RepositoryModelLoad": Address(model=2),
    f"{OIP}RepositoryModelUnload": Address(model=2),
    f"{MODEL_SERVICE}ListModels": TYPED,
    f"{MODEL_SERVICE}GetModel": TYPED,
    f"{MODEL_SERVICE}LoadModel": TYPED,
    f"{MODEL_SERVICE}UnloadModel": TYPED,
}


def address_of(path: str, request: DescriptorProto | None) -> Address | None:
    """Where the method's request names its model: by the table, else in a first field `string model = 1`."""
    if path in TABLE:
        return TABLE[path]
    fields = request.field if request is not None else ()
    named = any(f.number == 1 and f.name == "model" and f.type == FieldDescriptorProto.TYPE_STRING for f in fields)
    return TYPED if named else None


def read(address: Address, data: bytes) -> tuple[str, str]:
    """Model and version as the request names them; "" for what it leaves out.

    Raises:
        MalformedRequest: the bytes are no protobuf message, or a name is no UTF-8.
    """
    wanted = (address.model, address.version) if address.version else (address.model,)
    model, version = [*last_of(data, wanted), b""][:2]
    try:
        return model.decode(), version.decode()
    except UnicodeDecodeError as error:
        raise MalformedRequest("the name of the model or its version is no UTF-8") from error


def last_of(data: bytes, wanted: Sequence[int]) -> list[bytes]:
    """The last value of each wanted length-delimited field of a message, b"" where there is none.

    Costs a step per top-level field, whatever their size; messages of many fields go to protobuf's parser.

    Raises:
        MalformedRequest: the bytes are no protobuf message.
    """
    found: dict[int, bytes] = {}
    position, end, steps = 0, len(data), 0
    try:
        while position < end:
            if steps == MANY_FIELDS:
                return _parsed(data, tuple(wanted))
            steps += 1
            tag = data[position]
            position += 1
            if tag > 0x7F:
                tag, position = _varint(data, position - 1)
            kind, number = tag & 7, tag >> 3
            if not 0 < number < 1 << 29:
                raise _malformed(data)
            if kind == LENGTH:
                size = data[position]
                position += 1
                if size > 0x7F:
                    size, position = _varint(data, position - 1)
                if number in wanted:
                    found[number] = data[position : position + size]
                position += size
            elif kind == VARINT:
                _, position = _varint(data, position)
            elif kind == FIXED64:
                position += 8
            elif kind == FIXED32:
                position += 4
            else:  # a group, or no wire type at all
                return _parsed(data, tuple(wanted))
    except IndexError:
        raise _malformed(data) from None
    if position != end:
        raise _malformed(data)
    return [found.get(number, b"") for number in wanted]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number that begins at `position`, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise _malformed(data)
    return value, position


def _parsed(data: bytes, wanted: tuple[int, ...]) -> list[bytes]:
    """The same, by a message type that has only these fields: a step costs nanoseconds, but every byte is copied."""
    try:
        message = _only(wanted).FromString(data)
    except DecodeError:
        raise _malformed(data) from None
    return [getattr(message, f"f{number}") for number in wanted]


@cache
def _only(wanted: tuple[int, ...]) -> Any:
    file = FileDescriptorProto(name="only.proto", syntax="proto3")
    message = file.message_type.add(name="Only")
    for number in wanted:
        message.field.add(
            name=f"f{number}",
            number=number,
            type=FieldDescriptorProto.TYPE_BYTES,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
        )
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("Only"))


def _malformed(data: bytes) -> MalformedRequest:
    return MalformedRequest(f"the {len(data)} bytes of the request are no protobuf message", size=str(len(data)))
