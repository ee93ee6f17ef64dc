"""Small images for tests, made when they are asked for."""

import io
from pathlib import Path

from PIL import Image

SAMPLES = Path(__file__).resolve().parents[1] / "services" / "vision" / "samples"


def png(colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    """A PNG file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def samples(pattern: str = "[0-9]-*.png") -> dict[str, bytes]:
    """The held-out images that are committed, by file name; a name begins with its true label."""
    return {path.name: path.read_bytes() for path in sorted(SAMPLES.glob(pattern))}
