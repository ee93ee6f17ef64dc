"""What the vision models are trained and measured on."""

import numpy as np
import torch
from PIL import Image

from services.vision.training import digits, shapes, strokes


def test_no_held_out_digit_is_trained_on() -> None:
    train, held_out = digits.load()
    assert len(train.index) == 1437
    assert len(held_out.index) == 360
    assert not set(train.index.tolist()) & set(held_out.index.tolist())
    assert min(np.bincount(held_out.labels, minlength=10)) >= 34


def test_both_polarities_are_each_other_exchanged() -> None:
    ink = digits.load()[1].ink[0]
    dark, light = (np.asarray(digits.drawing(ink, light_on_dark=light)) for light in (False, True))
    assert dark[0, 0] == 255
    assert light[0, 0] == 0
    assert np.abs(dark.astype(int) + light - 255).max() <= 1


def test_the_same_seed_gives_the_same_batches() -> None:
    train, _ = digits.load()
    first, second = (next(digits.batches(train, 28, 32, torch.Generator().manual_seed(4))) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert first[0].shape == (32, 28, 28, 1)
    assert first[0].dtype == torch.uint8
    assert not torch.equal(first[0], next(digits.batches(train, 28, 32, torch.Generator().manual_seed(5)))[0])


def test_augmented_digits_come_in_both_polarities() -> None:
    train, _ = digits.load()
    pixels, _ = next(digits.batches(train, 28, 256, torch.Generator().manual_seed(4)))
    border = torch.cat((pixels[:, 0], pixels[:, -1]), 1).float().mean((1, 2))
    assert 0.35 < (border > 128).float().mean() < 0.65


def test_generated_strokes_show_every_digit_with_ink_inside_the_image() -> None:
    ink, labels = strokes.glyphs(6, 64, seed=1)
    assert np.bincount(labels).tolist() == [6] * 10
    assert ink.min() == 0
    assert (ink.max(axis=(1, 2)) == 1).all()
    assert (ink.mean(axis=(1, 2)) > 0.01).all()


def test_every_shape_comes_equally_often_and_no_class_is_larger() -> None:
    pixels, labels = shapes.images(300, 64, np.random.default_rng(1), difficulty=0.0)
    assert np.bincount(labels).tolist() == [100] * 3
    bright = (pixels.mean(axis=-1) > 0.5 * 255).mean(axis=(1, 2))
    sizes = [float(bright[labels == label].mean()) for label in range(3)]
    assert max(sizes) < 1.2 * min(sizes)


def test_shapes_of_a_seed_are_the_same_at_any_time() -> None:
    first, second = (shapes.drawings(3, seed=9) for _ in range(2))
    assert [label for _, label in first] == [label for _, label in second]
    assert all(a.tobytes() == b.tobytes() for (a, _), (b, _) in zip(first, second, strict=True))
    assert isinstance(first[0][0], Image.Image)
