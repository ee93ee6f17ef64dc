from typing import Any

import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from services.kit.errors import MalformedRequest
from services.kit.wire import parsed, with_field
from trivium.language.v1 import language_pb2
from trivium.sequence.v1 import sequence_pb2 as pb

STATE = pb.TrackResponse.STATE_FIELD_NUMBER


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_384, 3_000_000])
def test_the_bytes_are_those_of_the_message_with_its_field(size: int) -> None:
    message = pb.TrackResponse(steps=[pb.TrackedStep(step=300, values=[1.5])], model="numbers:1")
    half = bytes(range(256)) * (size // 512 + 1)
    parts: tuple[bytes, memoryview] = (half[: size // 2], memoryview(half)[: size - size // 2])
    whole = pb.TrackResponse.FromString(with_field(message, STATE, parts))
    message.state = b"".join(parts)
    assert whole == message


def test_a_part_of_numbers_counts_in_bytes() -> None:
    numbers = np.arange(5, dtype="<f4").reshape(1, 5)
    found = pb.TrackResponse.FromString(with_field(pb.TrackResponse(), STATE, [numbers.data]))
    assert found.state == numbers.tobytes()


@pytest.mark.parametrize(
    ("kind", "data", "field", "byte"),
    [
        (language_pb2.GenerateRequest, b"\x12\x03a\xff\xfe", "prompt", 1),
        (language_pb2.GenerateRequest, b"\x12\x01a\x62\x01b\x62\x02\xc3(", "stop", 0),
        (oip.ModelInferRequest, b"\x0a\x01m\x2a\x05\x0a\x03in\xe2", "inputs.name", 2),
        (oip.ModelInferRequest, b"\x22\x07\x0a\x01k\x12\x02\x1a\x00\x22\x03\x0a\x01\xff", "parameters.key", 0),
    ],
)
def test_a_text_that_is_none_is_named(kind: Any, data: bytes, field: str, byte: int) -> None:
    with pytest.raises(MalformedRequest, match=f"^{field} is no UTF-8 text: .* at byte {byte}$") as caught:
        parsed(kind, data)
    assert caught.value.metadata["field"] == field


# The last one is text that is none behind so many fields that to look at each of them would hold up everybody else.
@pytest.mark.parametrize(
    "data", [b"\x12", b"\x12\x05a", b"\x07", b"\x12\x02ab\xff", b"\x62\x00" * 40_000 + b"\x12\x01\xff"]
)
def test_other_bytes_are_no_message(data: bytes) -> None:
    with pytest.raises(MalformedRequest, match=f"the {len(data)} bytes of the request are no trivium.language.v1.Gen"):
        parsed(language_pb2.GenerateRequest, data)
