import numpy as np
import pytest

from services.kit.wire import with_field
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
