"""Images to send: small files whose pictures differ, the same in every run."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from services.kit.inference.bundle import Array

COUNT = 10


def digits() -> list[bytes]:
    """PNG, 28x28, grey: the digits 0 to 9 in Pillow's own font, white on black."""
    font = ImageFont.load_default(24)
    files = []
    for digit in range(COUNT):
        image = Image.new("L", (28, 28), 0)
        ImageDraw.Draw(image).text((14, 14), str(digit), fill=255, font=font, anchor="mm")
        files.append(_file(image, "PNG"))
    return files


def scenes() -> list[bytes]:
    """JPEG, 224x224, colour, 10 to 20 kB: smooth shapes in random colours, as much detail as a small photo."""
    random = np.random.default_rng(7)
    files = []
    for _ in range(COUNT):
        coarse = random.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC)
        grain = random.normal(0, 6, (224, 224, 3))
        pixels = np.clip(np.asarray(image, np.float64) + grain, 0, 255).astype(np.uint8)
        files.append(_file(Image.fromarray(pixels), "JPEG"))
    return files


def pixels(files: Sequence[bytes]) -> Array:
    """Colour files of one size as uint8 [count, height, width, 3]."""
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def _file(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=85)
    return buffer.getvalue()
