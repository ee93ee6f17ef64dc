"""A stream's state as bytes: the same numbers come back, and nothing else passes for a state."""

import zlib

import numpy as np
import pytest

from services.kit.errors import InvalidField, StateMismatch, TriviumError
from services.sequence.state import CHECKSUM, FORMAT, HEADER, MAGIC, StreamState, unpacked

DIGEST, OTHER = bytes(range(32)), bytes(range(1, 33))
WIDTH = 5
FIELD = "resume_state"


def state(width: int = WIDTH, step: int = 12) -> StreamState:
    values = np.random.default_rng(width).normal(size=(1, width)).astype(np.float32)
    return StreamState(step, values)


def sealed(content: bytes) -> bytes:
    """The content with the checksum that it should have."""
    return content + CHECKSUM.pack(zlib.crc32(content))


def refusal(data: bytes, digest: bytes = DIGEST, width: int = WIDTH) -> TriviumError:
    with pytest.raises((InvalidField, StateMismatch)) as caught:
        unpacked(data, digest, width, FIELD)
    assert caught.value.metadata["field"] == FIELD
    return caught.value


@pytest.mark.parametrize("width", [1, 2, WIDTH, 256])
@pytest.mark.parametrize("step", [0, 1, 4096, 2**64 - 1])
def test_what_was_packed_comes_back_to_the_bit(width: int, step: int) -> None:
    packed = state(width, step).packed(DIGEST)
    assert len(packed) == HEADER.size + 4 * width + CHECKSUM.size
    back = unpacked(packed, DIGEST, width, FIELD)
    assert (back.step, str(back.values.dtype), back.values.shape) == (step, "float32", (1, width))
    assert back.values.tobytes() == state(width).values.tobytes()
    assert back.packed(DIGEST) == packed


def test_every_number_comes_back_also_those_that_are_none() -> None:
    values = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38]], np.float32)
    back = unpacked(StreamState(1, values).packed(DIGEST), DIGEST, values.size, FIELD)
    assert back.values.tobytes() == values.tobytes()


def test_the_numbers_are_aligned_as_an_engine_wants_them() -> None:
    assert unpacked(state().packed(DIGEST), DIGEST, WIDTH, FIELD).values.flags.aligned


def test_before_the_first_step_there_are_zeros() -> None:
    fresh = StreamState.fresh(WIDTH)
    assert (fresh.step, fresh.values.tolist()) == (0, [[0.0] * WIDTH])


def test_every_single_flipped_bit_is_refused() -> None:
    packed = state().packed(DIGEST)
    for index in range(len(packed)):
        for bit in range(8):
            damaged = bytearray(packed)
            damaged[index] ^= 1 << bit
            assert isinstance(refusal(bytes(damaged)), InvalidField)


def test_every_length_but_the_right_one_is_refused() -> None:
    packed = state().packed(DIGEST)
    for length in range(len(packed)):
        assert isinstance(refusal(packed[:length]), InvalidField)
    assert isinstance(refusal(packed + b"\0"), InvalidField)


@pytest.mark.parametrize("data", [b"?", b"TRVS", bytes(100), b"TRVS" + bytes(100), b"x" * 10_000])
def test_any_other_bytes_are_refused(data: bytes) -> None:
    assert isinstance(refusal(data), InvalidField)


def test_the_state_of_another_bundle_is_refused_with_both_digests() -> None:
    error = refusal(state().packed(OTHER))
    assert isinstance(error, StateMismatch)
    assert (error.metadata["value"], error.metadata["limit"]) == (OTHER.hex(), DIGEST.hex())


def test_another_format_is_refused() -> None:
    content = HEADER.pack(MAGIC, FORMAT + 1, DIGEST, 1) + bytes(4 * WIDTH)
    assert isinstance(refusal(sealed(content)), StateMismatch)


@pytest.mark.parametrize("size", [0, 1, 4, 4 * WIDTH - 4, 4 * WIDTH - 1, 4 * WIDTH + 1, 4 * WIDTH + 2, 4 * WIDTH + 4])
def test_other_than_the_bundles_numbers_are_refused_although_the_checksum_is_right(size: int) -> None:
    error = refusal(sealed(HEADER.pack(MAGIC, FORMAT, DIGEST, 1) + bytes(size)))
    assert isinstance(error, InvalidField)
    assert error.metadata["limit"] == str(HEADER.size + 4 * WIDTH + CHECKSUM.size)
