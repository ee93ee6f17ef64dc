"""From a picture of any size to the size that a model takes, by Pillow's filters."""

import numpy as np
from PIL import Image

from services.kit.inference.bundle import Array
from services.kit.inference.manifest import ImagePreprocessing

Box = tuple[float, float, float, float]  # left, top, right, bottom


def mode(steps: ImagePreprocessing) -> str:
    """Pillow's mode for the model's channels."""
    return "L" if steps.channels == "grey" else "RGB"


def fit(image: Image.Image, steps: ImagePreprocessing) -> Array:
    """The image as the model wants it: uint8 [height, width, channels], with 1 or 3 channels.

    Args:
        image: of the `mode` of these steps.
        steps: the model's size, filter and fit.
    """
    size, filter_ = (steps.width, steps.height), Image.Resampling[steps.resize.upper()]
    if steps.fit == "contain":
        fitted = _contained(image, size, filter_, steps.pad)
    else:
        box = cover_box(image.size, size) if steps.fit == "cover" else None
        fitted = image.resize(size, filter_, box)
    return np.asarray(fitted).reshape(steps.height, steps.width, -1)


def cover_box(source: tuple[int, int], target: tuple[int, int]) -> Box:
    """The largest box in the middle of `source` that has the aspect ratio of `target`."""
    scale = min(source[0] / target[0], source[1] / target[1])
    width, height = target[0] * scale, target[1] * scale
    left, top = (source[0] - width) / 2, (source[1] - height) / 2
    return max(left, 0.0), max(top, 0.0), min(left + width, source[0]), min(top + height, source[1])


def contained_size(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The largest size within `target` that has the aspect ratio of `source`, each side at least 1."""
    scale = min(target[0] / source[0], target[1] / source[1])
    width, height = (max(1, round(side * scale)) for side in source)
    return min(width, target[0]), min(height, target[1])


def _contained(image: Image.Image, target: tuple[int, int], filter_: Image.Resampling, pad: int) -> Image.Image:
    size = contained_size(image.size, target)
    if size == target:
        return image.resize(size, filter_)
    colour = _border(image) if pad < 0 else (pad,) * len(image.getbands())
    canvas = Image.new(image.mode, target, colour[0] if len(colour) == 1 else colour)
    canvas.paste(image.resize(size, filter_), ((target[0] - size[0]) // 2, (target[1] - size[1]) // 2))
    return canvas


def _border(image: Image.Image) -> tuple[int, ...]:
    """The median of the outermost pixels, for each channel."""
    width, height = image.size
    edges = ((0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height))
    channels = len(image.getbands())
    pixels = np.concatenate([np.asarray(image.crop(edge)).reshape(-1, channels) for edge in edges])
    return tuple(int(value) for value in np.median(pixels, axis=0).round())
