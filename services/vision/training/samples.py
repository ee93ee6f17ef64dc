"""A few held-out images as PNG files, named after what they show: for the README, the demo and the tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from services.vision.training import digits, shapes

MORE_DIGITS = 2  # beside one of each class
SHAPES_SEED = 20260103


def write(folder: Path) -> None:
    """Writes those that are missing: "7-0012.png" is sample 12 of scikit-learn's digits and shows a 7.

    Every other digit is light on dark, and those shown twice come once each way. The samples are the first held-out
    ones of their class, whatever models say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in (_digits() | _shapes()).items():
        if not (folder / name).exists():
            image.save(folder / name, optimize=True)


def _digits() -> dict[str, Image.Image]:
    _, held_out = digits.load()
    first = [int(np.flatnonzero(held_out.labels == label)[0]) for label in range(len(digits.CLASSES))]
    more = [int(np.flatnonzero(held_out.labels == label)[1]) for label in range(MORE_DIGITS)]
    return {
        f"{held_out.labels[at]}-{held_out.index[at]:04d}.png": digits.drawing(
            held_out.ink[at], light_on_dark=(place + place // len(digits.CLASSES)) % 2 == 1
        )
        for place, at in enumerate(first + more)
    }


def _shapes() -> dict[str, Image.Image]:
    drawn = shapes.drawings(len(shapes.CLASSES), SHAPES_SEED)
    return {f"{shapes.CLASSES[label]}-{place:04d}.png": image for place, (image, label) in enumerate(drawn, start=1)}
