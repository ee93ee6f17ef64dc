"""Handwritten digits: scikit-learn's 1797 samples of 8x8, split, drawn larger and augmented."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from services.kit.inference.bundle import Array
from services.vision.fitting import fit
from services.vision.training import strokes
from services.vision.training.image_input import preprocessing

CLASSES = tuple("0123456789")
SPLIT_SEED = 20260101
HELD_OUT = 360  # samples of 1797, the same part of every class
STROKES = 60  # generated samples of each digit, beside the 144 of scikit-learn's
GLYPH = 64  # pixels, the side of the enlarged samples that augmentation starts from
DRAWING = 112  # pixels, the side of an image as a caller would send it
INK = 80  # pixels of it that the 8x8 sample covers, in the middle


@dataclass(frozen=True, slots=True)
class Digits:
    """Some samples of scikit-learn's digits."""

    index: Array  # int64 [samples], within the data set
    ink: Array  # float32 [samples, 8, 8]; 0 is paper, 1 is full ink
    labels: Array  # int64 [samples]


def load() -> tuple[Digits, Digits]:
    """The samples to train with and those held out; no sample is in both."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    ink, labels = (raw.images / 16).astype(np.float32), raw.target.astype(np.int64)
    everything = np.arange(len(labels))
    parts = train_test_split(everything, test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED)
    train, held_out = (Digits(np.sort(part), ink[np.sort(part)], labels[np.sort(part)]) for part in parts)
    return train, held_out


def drawing(ink: Array, *, light_on_dark: bool) -> Image.Image:
    """One sample, float32 [8, 8], as a grey image with a margin; nothing random about it."""
    large = np.asarray(Image.fromarray(ink).resize((INK, INK), Image.Resampling.BICUBIC))
    canvas = np.zeros((DRAWING, DRAWING), np.float32)
    start = (DRAWING - INK) // 2
    canvas[start : start + INK, start : start + INK] = np.clip(large, 0, 1)
    return Image.fromarray(np.rint(255 * (canvas if light_on_dark else 1 - canvas)).astype(np.uint8))


def as_served(digits: Digits, size: int, *, light_on_dark: bool) -> Array:
    """uint8 [samples, size, size, 1]: the drawings, resized as the service does it."""
    images = [drawing(ink, light_on_dark=light_on_dark) for ink in digits.ink]
    return np.stack([fit(image, preprocessing(size, "grey")) for image in images])


def batches(digits: Digits, size: int, batch: int, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of augmented samples, scikit-learn's and generated strokes.

    uint8 [batch, size, size, 1] and labels int64 [batch].
    """
    ink = torch.from_numpy(digits.ink)[:, None]
    written = functional.interpolate(ink, (GLYPH, GLYPH), mode="bicubic", align_corners=False).clamp(0, 1)
    drawn, drawn_labels = strokes.glyphs(STROKES, GLYPH, random.initial_seed())
    glyphs = torch.cat((written, torch.from_numpy(drawn)[:, None]))
    labels = torch.cat((torch.from_numpy(digits.labels), torch.from_numpy(drawn_labels)))
    while True:
        for chosen in torch.split(torch.randperm(len(labels), generator=random), batch):
            if len(chosen) == batch:
                yield augmented(glyphs[chosen], size, random), labels[chosen]


def augmented(glyphs: Tensor, size: int, random: torch.Generator) -> Tensor:
    """As people draw and photograph them: uint8 [batch, size, size, 1] from float32 [batch, 1, GLYPH, GLYPH]."""
    ink = _stroke(_warped(glyphs, 2 * size, random), random)
    ink = _blurred(functional.avg_pool2d(ink, 2), random)
    return _photographed(ink, random)


def _warped(glyphs: Tensor, size: int, random: torch.Generator) -> Tensor:
    """Scaled, stretched, turned, sheared, shifted and bent."""
    count = len(glyphs)
    scale = _between(0.5, 1.0, count, random)
    wide, high = (scale * _between(0.8, 1.15, count, random) for _ in range(2))
    turn, shear = _between(-0.3, 0.3, count, random), _between(-0.3, 0.3, count, random)
    room = (1 - scale) * 0.8 + 0.05
    x, y = (room * _between(-1, 1, count, random) for _ in range(2))
    first = torch.stack((turn.cos() / wide, (turn.sin() + shear) / wide, -x / wide), 1)
    second = torch.stack((-turn.sin() / high, turn.cos() / high, -y / high), 1)
    grid = functional.affine_grid(torch.stack((first, second), 1), [count, 1, size, size], align_corners=False)
    bends = torch.randn(count, 2, 5, 5, generator=random) * _between(0, 0.07, count, random)[:, None, None, None]
    grid = grid + functional.interpolate(bends, (size, size), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    return functional.grid_sample(glyphs, grid, align_corners=False)


def _stroke(ink: Tensor, random: torch.Generator) -> Tensor:
    """Thinner or thicker, with a harder or softer edge; every third sample stays as soft as it was."""
    count = len(ink)
    threshold = _between(0.2, 0.65, count, random)[:, None, None, None]
    hardness = _between(math.log(4), math.log(30), count, random).exp()[:, None, None, None]
    low, high = torch.sigmoid(-hardness * threshold), torch.sigmoid(hardness * (1 - threshold))
    hard = (torch.sigmoid(hardness * (ink - threshold)) - low) / (high - low)
    keep = _between(0, 1, count, random)[:, None, None, None] < 1 / 3
    return torch.where(keep, ink, hard)


def _blurred(ink: Tensor, random: torch.Generator) -> Tensor:
    """A Gaussian blur, the same for the whole batch, with a deviation of 0.1 to 0.9 pixels."""
    deviation = float(_between(0.1, 0.9, 1, random))
    weights = torch.exp(-(torch.arange(-2, 3) ** 2) / (2 * deviation**2))
    weights = weights / weights.sum()
    rows = functional.conv2d(ink, weights.view(1, 1, 5, 1), padding=(2, 0))
    return functional.conv2d(rows, weights.view(1, 1, 1, 5), padding=(0, 2))


def _photographed(ink: Tensor, random: torch.Generator) -> Tensor:
    """Paper and ink of some brightness, uneven light, noise; half of them dark on light. uint8, channels last."""
    count, size = len(ink), ink.shape[-1]
    spread = [count, 1, 1, 1]
    paper = _between(-0.2, 0.35, count, random).clamp(0).view(spread)  # often quite black, or white
    full = _between(0.6, 1.2, count, random).clamp(max=1).view(spread)
    light = torch.linspace(-1, 1, size)
    slopes = [_between(-0.12, 0.12, count, random).view(spread) for _ in range(2)]
    noise = torch.randn(ink.shape, generator=random) * _between(-0.05, 0.1, count, random).clamp(0).view(spread)
    image = paper + (full - paper) * ink + (slopes[0] * light + slopes[1] * light[:, None]) * (paper > 0) + noise
    dark_on_light = _between(0, 1, count, random).view(spread) < 0.5
    image = torch.where(dark_on_light, 1 - image, image)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def _between(low: float, high: float, count: int, random: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=random)
