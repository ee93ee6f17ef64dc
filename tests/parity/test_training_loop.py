"""The training loop and the export, on a network small enough to be trained within a test."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from services.kit.training.export import ParityError, check_parity, interface, to_onnx
from services.kit.training.loop import fit, rate, seeded
from services.kit.training.recipe import Hyperparameters

SETTINGS = Hyperparameters(steps=200, batch=32, learning_rate=0.05, weight_decay=0.0, seed=3)


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.line(x),)


def batches(random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        x = torch.randn(SETTINGS.batch, 3, generator=random)
        yield x, torch.stack((x.sum(1), x[:, 0] - 2), 1)


def squared(network: nn.Module, x: Tensor, wanted: Tensor) -> Tensor:
    (got,) = network(x)
    return nn.functional.mse_loss(got, wanted)


def trained() -> Line:
    random = seeded(SETTINGS.seed)
    network = Line()
    fit(network, batches(random), squared, SETTINGS, "line")
    return network


def test_the_same_seed_gives_the_same_network_and_it_has_learnt() -> None:
    first, second = trained(), trained()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.training
    x, wanted = next(batches(seeded(99)))
    assert squared(first, x, wanted) < 1e-3


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [rate(step, 100) for step in range(100)]
    assert rates.index(max(rates)) in (4, 5)
    assert rates[0] < 0.3
    assert rates[-1] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))


def test_an_exported_network_takes_any_batch_and_computes_the_same() -> None:
    network = Line().eval()
    model = to_onnx(network, {"x": torch.zeros(2, 3)}, ["y"])
    x = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    assert [spec.shape for spec in (*interface(model)[0], *interface(model)[1])] == [(-1, 3), (-1, 2)]
    assert check_parity(network, model, {"x": x}, ["y"], (1, 2, 16)) < 1e-5


def test_a_graph_that_computes_something_else_is_refused() -> None:
    network = Line().eval()
    model = to_onnx(network, {"x": torch.zeros(2, 3)}, ["y"])
    with torch.no_grad():
        network.line.bias.add_(0.01)
    with pytest.raises(ParityError, match="'y' with 1 rows"):
        check_parity(network, model, {"x": np.zeros((4, 3), np.float32)}, ["y"], (1, 4))
