"""The training loop: batches in, a trained network out; the same seed gives the same network on one kind of CPU."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from services.kit.training import progress
from services.kit.training.recipe import Hyperparameters

WARM_UP = 0.05  # part of the steps in which the learning rate rises
SMOOTHING = 0.05  # weight of the newest loss in what is reported
MAX_NORM = 5.0  # of the gradient


def seeded(seed: int, threads: int = 2) -> torch.Generator:
    """Makes torch repeatable and gives a generator for the data; sums depend on the number of threads."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
    return torch.Generator().manual_seed(seed)


def fit(
    network: nn.Module,
    batches: Iterator[tuple[Tensor, ...]],
    loss: Callable[..., Tensor],
    settings: Hyperparameters,
    title: str,
) -> None:
    """Trains `network` in place, with AdamW and a learning rate that rises and then falls as a cosine.

    Args:
        batches: at least `settings.steps` of them.
        loss: called as loss(network, *batch), a scalar.
        title: what progress is reported under.
    """
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, settings.steps))
    network.train()
    average = math.nan
    with progress.steps(title, settings.steps) as report:
        for step in range(1, settings.steps + 1):
            value = loss(network, *next(batches))
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
            optimizer.step()
            schedule.step()
            newest = value.item()
            average = newest if math.isnan(average) else average + SMOOTHING * (newest - average)
            report(step, f"loss {average:.3f}")
    network.eval()


def rate(step: int, steps: int) -> float:
    """The learning rate before step `step` (from 0), as a part of the highest."""
    warm_up = max(1, round(steps * WARM_UP))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
