"""Trains the networks of the default bundles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from services.kit.inference.bundle import Array
from services.kit.inference.manifest import Metrics
from services.kit.training.loop import fit, seeded
from services.kit.training.recipe import Hyperparameters
from services.sequence.training import digits, regression, sunspots
from services.sequence.training.network import DigitsRnn, RegressionLinear, RegressionMlp, SunspotsLstm


@dataclass(frozen=True, slots=True)
class Subject:
    """What one network learns, and what it is measured on."""

    network: type[nn.Module]
    output: str  # name of its public output
    batches: Callable[[Hyperparameters, torch.Generator], Iterator[tuple[Tensor, Tensor]]]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    measure: Callable[[bytes, str], Metrics]  # of the exported graph, on the held-out data that the words describe
    examples: Callable[[int], Array]  # so many held-out rows, float32
    classes: tuple[str, ...] = ()


def _regression(network: type[nn.Module], width: int) -> Subject:
    return Subject(
        network,
        "y",
        partial(regression.batches, width),
        regression.loss,
        partial(regression.measure, width),
        partial(regression.examples, width),
    )


SUBJECTS = {
    subject.network.__name__: subject
    for subject in (
        Subject(
            DigitsRnn, "logits", digits.batches, digits.loss, digits.measure, digits.examples, classes=digits.CLASSES
        ),
        Subject(SunspotsLstm, "forecast", sunspots.batches, sunspots.loss, sunspots.measure, sunspots.examples),
        _regression(RegressionLinear, 1),
        _regression(RegressionMlp, 2),
    )
}


def train(subject: Subject, settings: Hyperparameters, title: str) -> nn.Module:
    """The subject's network, trained and in evaluation mode."""
    random = seeded(settings.seed, threads=1)  # the networks are so small that a second thread only waits
    network = subject.network()
    fit(network, subject.batches(settings, random), subject.loss, settings, title)
    return network
