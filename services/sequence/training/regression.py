"""Generated data for the two regressions."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.kit.inference.bundle import Array
from services.kit.inference.manifest import Metrics
from services.kit.training.export import session
from services.kit.training.recipe import Hyperparameters

SLOPE, INTERCEPT = 2.0, 1.0
NOISE = 0.05  # deviation of the y that are trained with
HELD_OUT = 1000  # points
HELD_OUT_SEED = 20260104  # no training uses it


def line(x: Tensor) -> Tensor:
    """float32 [rows, 1] from [rows, 1]."""
    return SLOPE * x + INTERCEPT


def cone(x: Tensor) -> Tensor:
    """The distance of the point from the origin, float32 [rows, 1] from [rows, 2]."""
    distance: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return distance


TRUTH = {1: line, 2: cone}  # by the width of x


def batches(width: int, settings: Hyperparameters, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of new points: x in [-1, 1], float32 [batch, width], and y with noise, float32 [batch, 1]."""
    while True:
        x = points(settings.batch, width, random)
        y = TRUTH[width](x)
        yield x, y + NOISE * torch.randn(y.shape, generator=random)


def points(count: int, width: int, random: torch.Generator) -> Tensor:
    """float32 [count, width], each number anywhere in [-1, 1]."""
    return 2 * torch.rand(count, width, generator=random) - 1


def loss(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean squared error."""
    (predicted,) = network(x)
    return functional.mse_loss(predicted, y)


def held_out(width: int) -> tuple[Array, Array]:
    """x, float32 [points, width], and y without noise, float32 [points, 1]."""
    x = points(HELD_OUT, width, torch.Generator().manual_seed(HELD_OUT_SEED))
    return x.numpy(), TRUTH[width](x).numpy()


def measure(width: int, model: bytes, data: str) -> Metrics:
    """The graph's error on the held-out points."""
    x, y = held_out(width)
    (predicted,) = session(model).run(["y"], {"x": x})
    values = {"rmse": round(float(np.sqrt(np.mean((predicted - y) ** 2))), 5)}
    return Metrics(data=data, samples=len(x), values=values)


def examples(width: int, count: int) -> Array:
    """The first `count` held-out points: for known answers and parity."""
    return held_out(width)[0][:count]
