"""Image files in memory, for the tests of this folder."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


def file_of(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """RGB: red grows to the right, green downwards, blue is 64: no two turns of it look the same."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 64)], -1).astype(np.uint8))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, chunks: Mapping[bytes, bytes] = {}) -> bytes:
    """A PNG file from its parts; `rows` is each row behind its filter byte, and may be too short."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(_chunk(kind, data) for kind, data in chunks.items())
    pixels = _chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + body + pixels + _chunk(b"IEND", b"")


def exif(orientation: int, *, kind: int = 3, count: int = 1) -> bytes:
    """EXIF data with nothing but an orientation (of the TIFF type `kind`)."""
    value = struct.pack("<I", orientation)
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, kind, count) + value + b"\0\0\0\0"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
