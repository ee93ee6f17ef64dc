"""Recipe: how one bundle is made; `make` makes those whose training inputs have changed. Nothing here needs torch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.kit.errors import StartupError
from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from services.kit.training.progress import say

SHOWN = 16  # measured values, the first ones; the manifest has all of them


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What a training can be tuned by; part of the digest of its inputs."""

    steps: int
    batch: int  # samples a step
    learning_rate: float  # at its highest
    weight_decay: float
    seed: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make NAME/VERSION."""

    name: str
    version: int
    digest: str  # of everything that goes into the training
    build: Callable[[Path], Bundle]  # trains and writes into that folder


def make(folder: Path, recipes: Sequence[Recipe]) -> list[Bundle]:
    """Makes every bundle that is not up to date, and labels it stable; returns those made."""
    return [_make(folder, recipe) for recipe in recipes if not _left_alone(folder, recipe)]


def _left_alone(folder: Path, recipe: Recipe) -> bool:
    if not up_to_date(folder, recipe):
        return False
    say(f"{recipe.name}/{recipe.version} is up to date")
    return True


def up_to_date(folder: Path, recipe: Recipe) -> bool:
    """Whether an undamaged bundle lies there that was made from the same training inputs."""
    try:
        bundle = bundles.load(folder / recipe.name / str(recipe.version))
        bundles.verify_files(bundle)
    except StartupError:
        return False
    training = bundle.manifest.training
    return training is not None and training.digest == recipe.digest


def _make(folder: Path, recipe: Recipe) -> Bundle:
    started = time.monotonic()
    say(f"{recipe.name}/{recipe.version}: training")
    bundle = recipe.build(folder)
    bundles.write_labels(folder / recipe.name, {"stable": recipe.version})
    metrics = bundle.manifest.metrics
    shown = list(metrics.values.items())[:SHOWN] if metrics else []
    values = ", ".join(f"{name} {value:.4f}" for name, value in shown)
    say(f"{recipe.name}/{recipe.version}: done in {time.monotonic() - started:.0f} s; held out: {values}")
    return bundle
