"""Colour shapes: circles, squares and triangles of any colour, place, size and turn, filled or outlined."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from services.kit.inference.bundle import Array
from services.vision.fitting import fit
from services.vision.training.image_input import preprocessing

CLASSES = ("circle", "square", "triangle")
SIDES = (0, 4, 3)  # of the polygon, by class; 0: a circle
AREA = (np.pi, 2.0, 0.75 * 3**0.5)  # by class, for a circumscribed circle of radius 1
SMALL = 0.7  # part of the training's steps
DRAWING = 128  # pixels, the side of an image as a caller would send it
COLOURS_APART = 0.25  # at least: mean difference of shape and background over the channels, of [0, 1]

Random = np.random.Generator


def images(count: int, size: int, random: Random, difficulty: float = 1.0) -> tuple[Array, Array]:
    """uint8 [count, size, size, 3] and labels int64 [count], each class equally often.

    Args:
        difficulty: 1 for everything; towards 0 the shapes are larger, filled, clean and light on dark.
    """
    labels = random.permutation(np.arange(count) % len(CLASSES))
    cover = np.stack([_cover(int(label), size, random, difficulty) for label in labels])[..., None]
    shape, background = _colours(count, random, difficulty)
    light = np.linspace(-1, 1, size, dtype=np.float32)
    slopes = difficulty * random.uniform(-0.1, 0.1, (2, count, 1, 1, 3)).astype(np.float32)
    uneven = background + slopes[0] * light[:, None] + slopes[1] * light[:, None, None]
    deviation = difficulty * random.uniform(0, 0.04, (count, 1, 1, 1)).astype(np.float32)
    noise = deviation * random.standard_normal((count, size, size, 3), np.float32)
    mixed = cover * shape + (1 - cover) * uneven + noise
    return np.rint(np.clip(mixed, 0, 1) * 255).astype(np.uint8), labels.astype(np.int64)


def batches(size: int, batch: int, seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches, every image new: uint8 [batch, size, size, 3] and labels int64 [batch].

    Of `steps` the first part is half as wide and high, which costs a fifth and lets corners be found soon, and grows
    more difficult until its middle; global pooling lets a network take both sizes.
    """
    random = np.random.default_rng(seed)
    small = SMALL * steps
    for step in itertools.count():
        pixels, labels = images(batch, size if step >= small else size // 2, random, min(1.0, 2 * step / small))
        yield torch.from_numpy(pixels), torch.from_numpy(labels)


def drawings(count: int, seed: int) -> list[tuple[Image.Image, int]]:
    """Images as a caller would send them, each with its label."""
    pixels, labels = images(count, DRAWING, np.random.default_rng(seed))
    return [(Image.fromarray(image), int(label)) for image, label in zip(pixels, labels, strict=True)]


def as_served(count: int, size: int, seed: int) -> tuple[Array, Array]:
    """uint8 [count, size, size, 3] and labels int64 [count]: the drawings, resized as the service does it."""
    drawn = drawings(count, seed)
    fitted = [fit(image, preprocessing(size, "rgb")) for image, _ in drawn]
    return np.stack(fitted), np.array([label for _, label in drawn], np.int64)


def _cover(label: int, size: int, random: Random, difficulty: float) -> Array:
    """float32 [size, size]: how much of each pixel the shape covers."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    # The area says nothing about the class: else a network finds that first, and nothing better later.
    radius = float(random.uniform(0.75 - 0.25 * difficulty, 1.05) / AREA[label] ** 0.5)  # in halves of the image's side
    room = max(0.0, 0.95 - radius)
    x, y = axis[None] - random.uniform(-room, room), axis[:, None] - random.uniform(-room, room)
    outside = _distance(SIDES[label], x, y, radius, random.uniform(0, 2 * np.pi))
    cover: Array = np.clip(0.5 - outside * size / 2, 0, 1).astype(np.float32)
    return cover


def _distance(sides: int, x: Array, y: Array, radius: float, turn: float) -> Array:
    """How far each point lies outside the shape (negative: inside), near its edge."""
    if not sides:
        distance: Array = np.hypot(x, y) - radius
        return distance
    normals = turn + 2 * np.pi * np.arange(sides) / sides
    edges = [np.cos(angle) * x + np.sin(angle) * y for angle in normals]
    polygon: Array = np.max(edges, axis=0) - radius * np.cos(np.pi / sides)
    return polygon


def _colours(count: int, random: Random, difficulty: float) -> tuple[Array, Array]:
    """Colours of shape and background, float32 [count, 1, 1, 3], far enough apart to be told apart."""
    shape, background = random.uniform(0, 1, (2, count, 1, 1, 3)).astype(np.float32)
    for _ in range(100):
        close = np.abs(shape - background).mean(axis=-1) < COLOURS_APART
        if not close.any():
            break
        shape[close] = random.uniform(0, 1, (int(close.sum()), 3))
    easy = (random.random((count, 1, 1, 1)) >= difficulty).astype(np.float32)
    return shape * (1 - easy) + (0.6 + 0.4 * shape) * easy, background * (1 - 0.6 * easy)
