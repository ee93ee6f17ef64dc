"""StreamState: where a stream is, and its bytes: of one bundle only, checksummed, the same on every instance.

4 bytes   "TRVS"
1 byte    format, 1
32 bytes  SHA-256 of the bundle (the digest of ModelInfo)
8 bytes   steps so far, little-endian
4 * n     the state's numbers, float32, little-endian
4 bytes   CRC-32 of everything before, little-endian
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from services.kit.errors import InvalidField, StateMismatch
from services.kit.inference.bundle import Array

MAGIC, FORMAT = b"TRVS", 1
HEADER = struct.Struct("<4sB32sQ")
CHECKSUM = struct.Struct("<I")
FLOAT32 = np.dtype("<f4")


@dataclass(slots=True)
class StreamState:
    """The steps that were taken, and what the network remembers of them."""

    step: int
    values: Array  # float32 [1, state width]; never written to, only replaced

    @classmethod
    def fresh(cls, width: int) -> "StreamState":
        """Before the first step."""
        return cls(0, np.zeros((1, width), np.float32))

    def packed(self, digest: bytes) -> bytes:
        """The state as bytes, for a stream of the bundle with that digest."""
        return b"".join(self.parts(digest))

    def parts(self, digest: bytes) -> tuple[bytes, memoryview, bytes]:
        """The same bytes in three parts, of which the one with the numbers is no copy."""
        header, numbers = HEADER.pack(MAGIC, FORMAT, digest, self.step), self.values.astype(FLOAT32, copy=False).data
        return header, numbers, CHECKSUM.pack(zlib.crc32(numbers, zlib.crc32(header)))


def unpacked(data: bytes, digest: bytes, width: int, field: str) -> StreamState:
    """What `packed` made for the same bundle.

    Args:
        width: numbers in the state of this bundle.
        field: of the request, for the refusal.

    Raises:
        InvalidField: the bytes are no state, or damaged.
        StateMismatch: they are that of another bundle.
    """
    body, size = data[: -CHECKSUM.size], f"{len(data)} bytes"
    if len(data) < HEADER.size + CHECKSUM.size or data[: len(MAGIC)] != MAGIC:
        raise InvalidField(f"{field} holds {size} that are no state", field=field, value=size)
    if zlib.crc32(body) != CHECKSUM.unpack(data[-CHECKSUM.size :])[0]:
        raise InvalidField(f"{field} is damaged: its checksum is wrong", field=field, value=size)
    _, version, owner, step = HEADER.unpack_from(body)
    if (version, owner) != (FORMAT, digest):
        raise StateMismatch(
            f"{field} is of another bundle or version: its digest is {owner.hex()[:16]}..., this one's is "
            f"{digest.hex()[:16]}...",
            field=field,
            value=owner.hex(),
            limit=digest.hex(),
        )
    wanted = HEADER.size + width * FLOAT32.itemsize + CHECKSUM.size
    if len(data) != wanted:
        raise InvalidField(
            f"{field} holds {size} and a state of this bundle has {wanted}", field=field, limit=str(wanted), value=size
        )
    # A copy, as the numbers lie at an odd address within the bytes and engines want them aligned.
    values = np.frombuffer(body, FLOAT32, offset=HEADER.size).astype(np.float32).reshape(1, -1)
    return StreamState(step, values)
