"""Trains the networks of the default bundles, and holds out what they are measured on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from services.kit.inference.bundle import Array
from services.kit.training.loop import fit, seeded
from services.kit.training.recipe import Hyperparameters
from services.vision.training import digits, shapes
from services.vision.training.network import DigitsCnn, DigitsLenet, ShapesRgb

HELD_OUT_SHAPES = 1500
DIGITS: Mapping[str, type[DigitsLenet] | type[DigitsCnn]] = {kind.__name__: kind for kind in (DigitsLenet, DigitsCnn)}
SHAPES_SEED = 20260102  # of the held-out shapes; no training uses it


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the training never saw, by condition: {"dark_on_light": (images, labels)}.

    Images are uint8 [samples, height, width, channels] as the service feeds them, labels int64 [samples].
    """

    parts: Mapping[str, tuple[Array, Array]]


@dataclass(frozen=True, slots=True)
class Trained:
    """A network in evaluation mode, and what to measure it on."""

    network: nn.Module
    classes: tuple[str, ...]
    held_out: HeldOut


def train(network: str, settings: Hyperparameters, title: str) -> Trained:
    """Trains the class of network.py that is called `network`."""
    if network == ShapesRgb.__name__:
        return Trained(_train_shapes(settings, title), shapes.CLASSES, held_out(network))
    return Trained(_train_digits(DIGITS[network], settings, title), digits.CLASSES, held_out(network))


def held_out(network: str) -> HeldOut:
    """What that network is measured on: digits that it never saw, or freshly generated shapes."""
    if network == ShapesRgb.__name__:
        return HeldOut({"generated": shapes.as_served(HELD_OUT_SHAPES, ShapesRgb.size, SHAPES_SEED)})
    _, samples = digits.load()
    return HeldOut(
        {
            name: (digits.as_served(samples, DIGITS[network].size, light_on_dark=light), samples.labels)
            for name, light in (("dark_on_light", False), ("light_on_dark", True))
        }
    )


def _train_digits(kind: type[DigitsLenet] | type[DigitsCnn], settings: Hyperparameters, title: str) -> nn.Module:
    random = seeded(settings.seed)
    samples, _ = digits.load()
    network = kind()
    fit(network, digits.batches(samples, kind.size, settings.batch, random), loss, settings, title)
    return network


def _train_shapes(settings: Hyperparameters, title: str) -> nn.Module:
    seeded(settings.seed)
    network = ShapesRgb()
    batches = shapes.batches(ShapesRgb.size, settings.batch, settings.seed, settings.steps)
    fit(network, batches, loss, settings, title)
    return network


def loss(network: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """Cross entropy of the logits; a little smoothing keeps probabilities honest on images unlike any seen."""
    logits, _ = network(image)
    return functional.cross_entropy(logits, label, label_smoothing=0.02)


def spread(held_out: HeldOut, count: int) -> Array:
    """`count` of the held-out images, taken evenly from all of them: for known answers and parity."""
    everything = np.concatenate([images for images, _ in held_out.parts.values()])
    chosen: Array = everything[np.linspace(0, len(everything) - 1, count).astype(int)]
    return chosen
