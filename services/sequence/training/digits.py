"""Handwritten digits as series: scikit-learn's 1797 samples of 8x8, read pixel by pixel, row by row."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.kit.inference.bundle import Array
from services.kit.inference.manifest import Metrics
from services.kit.training import evaluation
from services.kit.training.export import session
from services.kit.training.recipe import Hyperparameters
from services.kit.training.recurrent import run

CLASSES = tuple("0123456789")
SPLIT_SEED = 20260101
HELD_OUT = 360  # samples of 1797, the same part of every class
SIDE, STEPS = 8, 64  # pixels
FULL = 16.0  # a pixel full of ink, in the scale of the data set
LAST = 0.5  # weight of the last step in the loss; the rest is shared by all steps
UNIT_PART = 1 / 3  # of the training samples, which come as 0 to 1
CURVE = tuple(range(8, STEPS + 1, 8))  # steps after which the accuracy is told: the end of each row


@dataclass(frozen=True, slots=True)
class Digits:
    """Some samples of scikit-learn's digits."""

    index: Array  # int64 [samples], within the data set
    pixels: Array  # float32 [samples, 8, 8]; 0 is paper, 16 is full ink
    labels: Array  # int64 [samples]

    @property
    def series(self) -> Array:
        """float32 [samples, 64, 1]."""
        return self.pixels.reshape(-1, STEPS, 1)


def load() -> tuple[Digits, Digits]:
    """The samples to train with and those held out; no sample is in both."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    pixels, labels = raw.images.astype(np.float32), raw.target.astype(np.int64)
    everything = np.arange(len(labels))
    parts = train_test_split(everything, test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED)
    train, held_out = (Digits(np.sort(part), pixels[np.sort(part)], labels[np.sort(part)]) for part in parts)
    return train, held_out


def batches(settings: Hyperparameters, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of augmented training samples: float32 [batch, 64, 1] and labels int64 [batch]."""
    samples, _ = load()
    pixels, labels = torch.from_numpy(samples.pixels), torch.from_numpy(samples.labels)
    while True:
        chosen = torch.randint(0, len(labels), (settings.batch,), generator=random)
        yield augmented(pixels[chosen], random).reshape(-1, STEPS, 1), labels[chosen]


def augmented(pixels: Tensor, random: torch.Generator) -> Tensor:
    """float32 [batch, 8, 8]: some shifted by a pixel, with more or less ink, uneven ink, some in the scale 0 to 1."""
    count = len(pixels)
    ink = 0.75 + 0.35 * torch.rand(count, 1, 1, generator=random)
    noise = torch.randn(pixels.shape, generator=random) * torch.rand(count, 1, 1, generator=random)
    shifted = _shifted(pixels, random)
    pixels = (shifted * ink + noise * (shifted > 0)).clamp(0, FULL)
    unit = torch.rand(count, 1, 1, generator=random) < UNIT_PART
    return torch.where(unit, pixels / FULL, pixels)


def _shifted(pixels: Tensor, random: torch.Generator) -> Tensor:
    """By one of nine shifts; 0.4 of the samples stay where they are."""
    count = len(pixels)
    shifts = torch.randint(0, 3, (2, count), generator=random)
    shifts[:, torch.rand(count, generator=random) < 0.4] = 1
    down, right = (shift[:, None] + torch.arange(SIDE) for shift in shifts)
    framed = functional.pad(pixels, (1, 1, 1, 1))
    return framed[torch.arange(count)[:, None, None], down[:, :, None], right[:, None, :]]


def loss(network: nn.Module, series: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy after every step, half of the weight on the last one."""
    logits, _ = network(series)
    after = functional.cross_entropy(
        logits.transpose(1, 2), labels[:, None].expand(-1, logits.shape[1]), reduction="none"
    ).mean(0)
    return LAST * after[-1] + (1 - LAST) * after.mean()


def measure(model: bytes, data: str) -> Metrics:
    """What the graph gets right of the held-out samples: after each row of pixels, and in the scale 0 to 1."""
    _, held_out = load()
    after = predict(model, held_out.series)
    table = evaluation.confusion(held_out.labels, after[:, -1], len(CLASSES))
    values = {"accuracy": evaluation.accuracy(table)}
    for step in CURVE:
        values[f"accuracy_step_{step:02d}"] = _right(after[:, step - 1], held_out.labels)
    values["accuracy_0_to_1"] = _right(predict(model, held_out.series / FULL)[:, -1], held_out.labels)
    return Metrics(
        data=data,
        samples=len(held_out.labels),
        values=values,
        classes=evaluation.by_class(table, CLASSES),
        confusion=tuple(tuple(map(int, row)) for row in table),
    )


def predict(model: bytes, series: Array) -> Array:
    """int64 [samples, time]: the class with the highest score after each step."""
    loaded = session(model)
    lengths = np.full(len(series), series.shape[1], np.int32)
    width = next(node.shape[1] for node in loaded.get_inputs() if node.name == "state")
    logits, _ = run(loaded, series, lengths, np.zeros((len(series), width), np.float32))
    predicted: Array = logits.argmax(axis=2)
    return predicted


def examples(count: int) -> Array:
    """`count` held-out series, taken evenly: for known answers and parity."""
    _, held_out = load()
    chosen: Array = held_out.series[np.linspace(0, HELD_OUT - 1, count).astype(int)]
    return chosen


def _right(predicted: Array, labels: Array) -> float:
    return round(float((predicted == labels).mean()), 4)
