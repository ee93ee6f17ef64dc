"""What the sequence models are trained and measured on."""

import numpy as np
import pytest
import torch

from services.kit.training.recipe import Hyperparameters
from services.sequence.training import digits, regression, sunspots

SETTINGS = Hyperparameters(steps=1, batch=32, learning_rate=1e-3, weight_decay=0.0, seed=4)


def test_no_held_out_digit_is_trained_on() -> None:
    train, held_out = digits.load()
    assert (len(train.index), len(held_out.index)) == (1437, 360)
    assert not set(train.index.tolist()) & set(held_out.index.tolist())
    assert min(np.bincount(held_out.labels, minlength=10)) >= 34


def test_a_digit_is_read_row_by_row_from_the_top_left() -> None:
    train, _ = digits.load()
    assert train.series.shape == (1437, 64, 1)
    assert train.series[0, :8, 0].tolist() == train.pixels[0, 0].tolist()
    assert train.pixels.max() == digits.FULL


def test_the_same_seed_gives_the_same_digits_and_some_come_as_0_to_1() -> None:
    first, second = (next(digits.batches(SETTINGS, torch.Generator().manual_seed(4))) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert first[0].shape == (32, 64, 1)
    highest = first[0].amax((1, 2))
    assert 0.1 < (highest <= 1).float().mean() < 0.6
    assert (highest[highest > 1] > 8).all()


def test_a_shifted_digit_stays_within_its_square() -> None:
    dot = torch.zeros(200, 8, 8)
    dot[:, 3, 3] = 16
    places = digits._shifted(dot, torch.Generator().manual_seed(1)).flatten(1).nonzero()[:, 1]
    assert set(places.tolist()) == {8 * row + column for row in (2, 3, 4) for column in (2, 3, 4)}


def test_no_held_out_year_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    years, numbers = sunspots.load()
    assert (years[0], years[-1], years[-sunspots.HELD_OUT]) == (1700, 2008, 1959)
    before = next(sunspots.batches(SETTINGS, torch.Generator().manual_seed(4)))
    changed = numbers.copy()
    changed[-sunspots.HELD_OUT :] = 1e6
    monkeypatch.setattr(sunspots, "load", lambda: (years, changed))
    after = next(sunspots.batches(SETTINGS, torch.Generator().manual_seed(4)))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_follows_each_step_is_the_next_twelve_years(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sunspots, "_noisy", lambda series, random: series)
    seen, following = next(sunspots.batches(SETTINGS, torch.Generator().manual_seed(4)))
    assert seen.shape == (32, sunspots.STEPS, 1)
    assert following.shape == (32, sunspots.STEPS, 12)
    assert torch.equal(following[:, :-1, 0], seen[:, 1:, 0])
    assert torch.equal(following[:, :-12, 11], seen[:, 12:, 0])


def test_simulated_sunspots_have_cycles_of_about_eleven_years() -> None:
    numbers = sunspots.load()[1][: -sunspots.HELD_OUT]
    series = sunspots.simulated(numbers, 200, np.random.default_rng(1)).numpy()
    assert series.min() >= 0
    spectrum = np.abs(np.fft.rfft(series - series.mean(1, keepdims=True), axis=1)) ** 2
    period = series.shape[1] / (1 + spectrum.mean(0)[1:].argmax())
    assert 9 < period < 13


def test_the_held_out_points_of_a_regression_have_no_noise() -> None:
    x, y = regression.held_out(2)
    assert np.allclose(y[:, 0], np.hypot(*x.T), atol=1e-6)
    x, y = regression.held_out(1)
    assert np.allclose(y, 2 * x + 1)
