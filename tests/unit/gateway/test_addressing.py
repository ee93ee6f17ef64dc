"""The scan of the raw bytes finds what protobuf's parser finds."""

import contextlib
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.addressing import MANY_FIELDS, TYPED, VERSIONED, last_of, read
from inference import grpc_service_pb2 as oip
from services.kit.errors import MalformedRequest
from trivium.vision.v1 import vision_pb2


def varint(number: int) -> bytes:
    """Seven bits a byte, lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def text(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(value)) + value


NUMBERS = st.one_of(st.sampled_from([1, 2, 3]), st.integers(1, 1 << 29).filter(lambda n: n < 1 << 29))
NAMES = st.text(max_size=200).map(str.encode)
FIELDS = st.one_of(
    st.tuples(st.sampled_from([1, 2]), NAMES).map(lambda f: text(*f)),
    st.tuples(st.integers(900, 5000), st.binary(max_size=300)).map(lambda f: text(*f)),
    st.tuples(NUMBERS, st.integers(0, (1 << 64) - 1)).map(lambda f: varint(f[0] << 3) + varint(f[1])),
    st.tuples(NUMBERS, st.binary(min_size=8, max_size=8)).map(lambda f: varint(f[0] << 3 | 1) + f[1]),
    st.tuples(NUMBERS, st.binary(min_size=4, max_size=4)).map(lambda f: varint(f[0] << 3 | 5) + f[1]),
    st.tuples(st.integers(100, 200), NAMES).map(
        lambda f: varint(f[0] << 3 | 3) + text(1, f[1]) + varint(f[0] << 3 | 4)  # a group, with a field 1 inside
    ),
)
MESSAGES = st.lists(FIELDS, max_size=30).map(b"".join)


def parsed(data: bytes, cls: Any = oip.ModelReadyRequest) -> tuple[str, str] | None:
    """What protobuf reads; None if it refuses the bytes."""
    try:
        message = cls.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        return None
    return message.name, message.version


@settings(deadline=None, max_examples=60)
@given(MESSAGES)
def test_the_last_occurrence_wins_wherever_it_stands_and_whatever_stands_around_it(data: bytes) -> None:
    assert read(VERSIONED, data) == parsed(data)


@settings(deadline=None, max_examples=60)
@given(MESSAGES, MESSAGES)
def test_messages_of_many_fields_are_read_alike(head: bytes, tail: bytes) -> None:
    data = head + (varint(900 << 3) + varint(1)) * MANY_FIELDS + tail
    assert read(VERSIONED, data) == parsed(data)


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.binary(max_size=60), st.tuples(MESSAGES, st.integers(0, 400)).map(lambda m: m[0][: m[1]])))
def test_bytes_that_the_parser_takes_are_read_and_no_bytes_do_harm(data: bytes) -> None:
    expected = parsed(data)
    if expected is not None:
        assert read(VERSIONED, data) == expected
        return
    with contextlib.suppress(MalformedRequest):
        read(VERSIONED, data)


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\x05abc", b"\x0a\xff", b"\x07", b"\x00\x00", b"\x08", b"\x09123", b"\x0d12", b"\x80" * 11, b"\x0c"],
    ids=[
        "no size",
        "cut text",
        "cut size",
        "no type",
        "field 0",
        "no varint",
        "cut 64",
        "cut 32",
        "endless",
        "no group",
    ],
)
def test_garbage_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read(VERSIONED, data)


def test_a_name_that_is_no_text_is_malformed() -> None:
    with pytest.raises(MalformedRequest):
        read(TYPED, text(1, b"\xff\xfe"))


def test_a_field_of_another_wire_type_is_another_field() -> None:
    assert read(TYPED, text(1, b"digits") + varint(1 << 3) + varint(7)) == ("digits", "")


def test_a_large_field_costs_no_more_than_a_small_one() -> None:
    class Counted(bytes):
        """Counts how often it is looked at."""

        looks = 0

        def __getitem__(self, key: Any) -> Any:
            Counted.looks += 1
            return super().__getitem__(key)

    request = vision_pb2.ClassifyRequest(model="digits", image=bytes(600_000)).SerializeToString()
    assert last_of(Counted(request), (1,)) == [b"digits"]
    assert Counted.looks < 12
