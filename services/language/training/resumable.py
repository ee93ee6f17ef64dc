"""A training that takes minutes: when it is stopped, the next one of the same inputs goes on where it was."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from services.kit.training import progress
from services.kit.training.digest import ROOT

FOLDER = ROOT / ".cache" / "training"
EVERY_S = 30.0  # so much work may be lost
WARM_UP = 40  # steps in which the learning rate rises
FALLING = 0.6  # part of the steps, the last ones, in which it falls to nothing
SMOOTHING = 0.02  # weight of the newest loss in what is reported
MAX_NORM = 1.0  # of the gradient


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that says how far a training has come; what another one has left there is passed over."""

    path: Path
    digest: str  # of everything that goes into the training

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None: nothing, it is damaged, or other inputs led to it."""
        try:
            content: dict[str, Any] = torch.load(self.path, weights_only=True)
            return content["state"] if content["digest"] == self.digest else None
        except Exception:  # torch raises whatever a damaged file makes it stumble over: then the training begins anew
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Takes the place of what was saved before, all at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(f".{os.getpid()}")
        torch.save({"digest": self.digest, "state": state}, new)
        new.replace(self.path)


def saved(name: str, digest: str) -> Saved:
    """Where the training of the bundle `name` leaves its progress."""
    return Saved(FOLDER / f"{name}.pt", digest)


def fit(
    network: nn.Module,
    optimizers: Sequence[Optimizer],
    loss: Callable[[int], Tensor],
    steps: int,
    title: str,
    file: Saved,
) -> None:
    """Trains `network` in place, from where `file` says it was; at the end `file` holds the trained weights alone.

    Args:
        optimizers: of the network's weights, each with its highest learning rate.
        loss: of step number 0, 1, ...: a scalar that depends on the number, the weights and nothing else.
    """
    state = file.load() or {"step": 0}
    if "network" in state:
        network.load_state_dict(state["network"])
    for optimizer, known in zip(optimizers, state.get("optimizers", ()), strict=False):
        optimizer.load_state_dict(known)
    schedules = [_Schedule(optimizer, steps) for optimizer in optimizers]
    network.train()
    average, kept = math.nan, time.monotonic()
    with progress.steps(title, steps) as report:
        for step in range(state["step"], steps):
            value = loss(step)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
            for schedule in schedules:
                schedule.step(step)
            newest = value.item()
            average = newest if math.isnan(average) else average + SMOOTHING * (newest - average)
            report(step + 1, f"loss {average:.3f}")
            if time.monotonic() - kept > EVERY_S:
                known = [optimizer.state_dict() for optimizer in optimizers]
                file.save({"step": step + 1, "network": network.state_dict(), "optimizers": known})
                kept = time.monotonic()
    file.save({"step": steps, "network": network.state_dict()})
    network.eval()


class _Schedule:
    """An optimizer whose learning rate rises, stays and falls."""

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        self._optimizer, self._steps = optimizer, steps
        for group in optimizer.param_groups:
            group.setdefault("highest", group["lr"])

    def step(self, step: int) -> None:
        """Changes the weights by their gradients, and forgets these."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["highest"] * rate(step, self._steps)
        self._optimizer.step()
        self._optimizer.zero_grad()


def rate(step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0), as a part of the highest."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / max(1, round(steps * FALLING)))
