"""Yearly sunspot numbers, 1700 to 2008, as statsmodels has them: years to train with, and the last ones held out."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.kit.inference.bundle import Array
from services.kit.inference.manifest import Metrics
from services.kit.training.export import session
from services.kit.training.recipe import Hyperparameters
from services.kit.training.recurrent import run
from services.sequence.training.network import HORIZON

HELD_OUT = 50  # years, the last ones: 1959 to 2008
CYCLE = 11  # years, about, from one maximum to the next
STEPS = 80  # years of one training series, before those that it forecasts
KNOWN = 9  # years that a training series begins with and no error is counted after: less than a cycle says little
SCALE = 50.0  # of sunspot numbers, in the loss
SIMULATED = 8000  # series
PART = 0.875  # of a batch that is simulated
LOWEST, HIGHEST = 4.0, 20.0  # between them is the root of a simulated series' maximum; the highest so far is 13.8
LAGS = 9  # years that the simulation looks back
SETTLED = 100  # years that a simulation runs before its series begins


def load() -> tuple[Array, Array]:
    """Years, int64 [309], and their sunspot numbers, float32 [309]."""
    from statsmodels.datasets import sunspots

    table = sunspots.load_pandas().data
    return table["YEAR"].to_numpy(np.int64), table["SUNACTIVITY"].to_numpy(np.float32)


def batches(settings: Hyperparameters, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of series, float32 [batch, STEPS, 1], and what follows each step, float32 [batch, STEPS, 12].

    Some are pieces of the training years, a little faster or slower and with noise in what the network sees; most are
    simulated, as 259 years are few. All are made higher or lower.
    """
    numbers = torch.from_numpy(load()[1][:-HELD_OUT])
    imagined = simulated(numbers.numpy(), SIMULATED, np.random.default_rng(settings.seed))
    count = round(PART * settings.batch)
    while True:
        real = _pieces(numbers, settings.batch - count, random)
        chosen = torch.randint(0, len(imagined), (count,), generator=random)
        seen, true = torch.cat((_noisy(real, random), imagined[chosen])), torch.cat((real, imagined[chosen]))
        height = torch.exp(0.2 * torch.randn(settings.batch, 1, generator=random))
        following = (height * true)[:, 1:].unfold(1, HORIZON, 1)
        yield (height * seen)[:, :STEPS, None], following


def simulated(numbers: Array, count: int, random: np.random.Generator) -> Tensor:
    """Series that an autoregression of the numbers' roots goes on with by chance: float32 [about count, STEPS + 12].

    Each series has weights of its own, as likely as the numbers let them be; those that die out or explode are left
    out. Source: G. U. Yule, Philosophical Transactions of the Royal Society A 226, 1927, of sunspots.
    """
    roots = np.sqrt(numbers.astype(np.float64))
    past = np.lib.stride_tricks.sliding_window_view(roots[:-1], LAGS)
    rows = np.column_stack((np.ones(len(past)), past))
    weights, *_ = np.linalg.lstsq(rows, roots[LAGS:], rcond=None)
    surprises = roots[LAGS:] - rows @ weights
    surprises *= np.sqrt(len(rows) / (len(rows) - LAGS - 1))  # the fit has taken that much of them
    spread = np.linalg.cholesky(np.linalg.inv(rows.T @ rows) * surprises.var())
    drawn = weights + random.normal(size=(count, LAGS + 1)) @ spread.T
    series = np.zeros((count, SETTLED + STEPS + HORIZON))
    series[:, :LAGS] = past[random.integers(0, len(past), count)]
    for year in range(LAGS, series.shape[1]):
        expected = drawn[:, 0] + (series[:, year - LAGS : year] * drawn[:, 1:]).sum(1)
        series[:, year] = np.clip(expected + random.choice(surprises, count), 0, 2 * HIGHEST)
    highest = series[:, SETTLED:].max(1)
    likely = series[(highest > LOWEST) & (highest < HIGHEST), SETTLED:]
    return torch.from_numpy(np.square(likely).astype(np.float32))


def _pieces(numbers: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Pieces of the training years in which time runs at 0.9 to 1.1 of its speed: float32 [count, STEPS + 12]."""
    years = STEPS + HORIZON
    speed = torch.exp(0.1 * (2 * torch.rand(count, 1, generator=random) - 1))
    start = torch.rand(count, 1, generator=random) * (len(numbers) - 1 - speed * (years - 1))
    at = (start + speed * torch.arange(years)).clamp(max=len(numbers) - 1.001)
    before = at.floor().long()
    return torch.lerp(numbers[before], numbers[before + 1], at - before)


def _noisy(series: Tensor, random: torch.Generator) -> Tensor:
    """With an error of 1 in the root of each number, so that no series can be learnt by heart."""
    return (series.sqrt() + torch.randn(series.shape, generator=random)).clamp(min=0).square()


def loss(network: nn.Module, series: Tensor, following: Tensor) -> Tensor:
    """The mean squared error of all twelve years, after the first KNOWN years."""
    forecast, _ = network(series)
    return functional.mse_loss(forecast[:, KNOWN:] / SCALE, following[:, KNOWN:] / SCALE)


def measure(model: bytes, data: str) -> Metrics:
    """Errors in the held-out years, of the graph and of three rules of thumb, one year and twelve years ahead.

    "The value 11 years before" of a year that is twelve years ahead was not known yet when the graph made its forecast;
    "22 years before" was.
    """
    _, numbers = load()
    forecast = forecasts(model, numbers)
    wanted = np.arange(len(numbers) - HELD_OUT, len(numbers))
    values = {}
    for ahead in (1, HORIZON):
        values[f"rmse_{ahead}"] = _rmse(forecast[wanted - ahead, ahead - 1], numbers[wanted])
        values[f"rmse_{ahead}_last_value"] = _rmse(numbers[wanted - ahead], numbers[wanted])
        for cycles in (1, 2):
            before = cycles * CYCLE
            values[f"rmse_{ahead}_{before}_years_before"] = _rmse(numbers[wanted - before], numbers[wanted])
    all_years = [forecast[wanted - ahead, ahead - 1] - numbers[wanted] for ahead in range(1, HORIZON + 1)]
    values["rmse_1_to_12"] = _rmse(np.concatenate(all_years), np.zeros(1))
    return Metrics(data=data, samples=HELD_OUT, values=values)


def forecasts(model: bytes, numbers: Array) -> Array:
    """float32 [years, 12]: after each year, from all years up to it, the next twelve."""
    loaded = session(model)
    width = next(node.shape[1] for node in loaded.get_inputs() if node.name == "state")
    lengths = np.full(1, len(numbers), np.int32)
    answers, _ = run(loaded, numbers[None, :, None], lengths, np.zeros((1, width), np.float32))
    forecast: Array = answers[0]
    return forecast


def examples(count: int) -> Array:
    """`count` pieces of 64 years up to held-out ones, float32 [count, 64, 1]: for known answers and parity."""
    _, numbers = load()
    ends = len(numbers) - np.arange(count) % HELD_OUT
    return np.stack([numbers[end - 64 : end, None] for end in ends])


def _rmse(a: Array, b: Array) -> float:
    return round(float(np.sqrt(np.mean((a - b) ** 2))), 3)
