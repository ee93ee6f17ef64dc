"""A text's class from the hashes of its runs of characters: the network, how it is trained, and how it is measured."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.kit.inference.bundle import Array
from services.kit.inference.manifest import Metrics, NgramFeatures
from services.kit.training import evaluation, progress
from services.kit.training.export import session
from services.kit.training.loop import rate, seeded
from services.kit.training.recipe import Hyperparameters
from services.language.features import Ngrams
from services.language.training import langid, topics
from services.language.training.labelled import Labelled, Split
from services.language.training.naive_bayes import LAPLACE, NaiveBayes

SMOOTHING = 0.1  # of the labels: texts that look like several classes are many
CUT_PART = 0.8  # of the texts are cut to a part of themselves
LOST_PART = 0.2  # of the runs of a text are left out
NARROW = 0.01  # deviation of the untrained vectors: a run that no text of the training has says next to nothing
LARGEST = 127  # number in a table of int8
ROWS = 64  # texts of one run that measures


@dataclass(frozen=True, slots=True)
class Subject:
    """What one network learns."""

    load: Callable[[], Split]
    classes: tuple[str, ...]
    features: NgramFeatures
    width: int  # of the embedding
    shortest: int  # characters of a part that a text is cut to
    epsilon: float = 1e-8  # of Adam; the larger, the less is learnt from runs that few texts have


SUBJECTS = {
    "langid-text": Subject(langid.load, langid.CLASSES, NgramFeatures(buckets=131072), width=16, shortest=8),
    "topics-zh": Subject(
        topics.load,
        topics.CLASSES,
        NgramFeatures(buckets=98304, largest=3),
        width=16,
        shortest=4,
        epsilon=1e-4,
    ),
}


class TextClassifier(nn.Module):
    """The mean of the features' vectors is the embedding, and a linear layer makes the classes of it."""

    scale: Tensor

    def __init__(self, buckets: int, width: int, classes: int) -> None:
        super().__init__()
        self.table = nn.Embedding(buckets + 1, width, padding_idx=0)
        self.register_buffer("scale", torch.ones(width))
        self.classes = nn.Linear(width, classes)
        with torch.no_grad():
            self.table.weight.mul_(NARROW)

    @classmethod
    def of(cls, subject: Subject) -> "TextClassifier":
        """Untrained."""
        return cls(subject.features.buckets, subject.width, len(subject.classes))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 [B, classes] and embeddings float32 [B, width] of int64 [B, L]; feature 0 is none."""
        total = self.table(features).sum(1) * self.scale
        embedding = total / (features != 0).sum(1, keepdim=True).clamp(min=1)
        return self.classes(embedding), embedding

    def of_bags(self, features: Tensor, starts: Tensor) -> Tensor:
        """The logits of texts whose features lie one text after the other, as the training has them: quicker.

        Args:
            features: int64, all of them.
            starts: int64 [texts], where each text begins.
        """
        bags = functional.embedding_bag(features, self.table.weight, starts, mode="mean", padding_idx=0)
        logits: Tensor = self.classes(bags * self.scale)
        return logits

    @torch.no_grad()
    def quantise(self) -> None:
        """Makes the table one of whole numbers in [-127, 127] and gives each column its scale.

        It then fits into int8, and sums of it are exact in whatever order.
        """
        weight = self.table.weight
        self.scale.mul_(weight.abs().amax(0).clamp(min=1e-12) / LARGEST)
        weight.copy_((weight / self.scale).round())


def train(subject: Subject, split: Split, settings: Hyperparameters, title: str) -> TextClassifier:
    """The subject's network, trained, in evaluation mode and with a table of whole numbers."""
    seeded(settings.seed, threads=1)
    network = TextClassifier.of(subject)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        settings.learning_rate,
        eps=subject.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,  # a fifth of the time, with so many rows
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, settings.steps))
    given = islice(batches(subject, split.train, settings), settings.steps)
    with progress.steps(title, settings.steps) as report:
        for step, batch in enumerate(given, start=1):
            value = loss(network, *batch)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            report(step, f"loss {value.item():.3f}")
    network.quantise()
    return network.eval()


def loss(network: TextClassifier, features: Tensor, starts: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy."""
    return functional.cross_entropy(network.of_bags(features, starts), labels, label_smoothing=SMOOTHING)


def batches(subject: Subject, texts: Labelled, settings: Hyperparameters) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of features, starts and labels: every class as often, texts cut and with some runs left out."""
    random, ngrams = np.random.default_rng(settings.seed), Ngrams(subject.features)
    labels = np.array(texts.labels)
    of_class = [np.flatnonzero(labels == label) for label in range(len(subject.classes))]
    while True:
        wanted = random.integers(len(of_class), size=settings.batch)
        chosen = [texts.texts[of_class[label][random.integers(len(of_class[label]))]] for label in wanted]
        rows = [_some(ngrams.ids(_cut(text, subject.shortest, random)), random) for text in chosen]
        starts = np.cumsum([0, *map(len, rows[:-1])])
        yield torch.from_numpy(np.concatenate(rows)), torch.from_numpy(starts), torch.from_numpy(wanted)


def _cut(text: str, shortest: int, random: np.random.Generator) -> str:
    if len(text) <= shortest or random.random() >= CUT_PART:
        return text
    length = int(random.integers(shortest, len(text) + 1))
    begin = int(random.integers(len(text) - length + 1))
    return text[begin : begin + length]


def _some(features: Array, random: np.random.Generator) -> Array:
    """Without the padding and without some of the features."""
    features = features[features != 0]
    return features[random.random(len(features)) >= LOST_PART]


def measure(subject: Subject, split: Split, model: bytes, data: str) -> Metrics:
    """What the graph gets right of each part of the held-out texts, and what naive Bayes gets right of them.

    Classes and confusion are those of the first part.
    """
    values: dict[str, float] = {}
    tables = []
    for name, texts in split.held_out.items():
        predicted = predict(model, subject.features, texts.texts)
        tables.append(evaluation.confusion(np.array(texts.labels), predicted, len(subject.classes)))
        values[name] = evaluation.accuracy(tables[-1])
    simpler = NaiveBayes(split.train, len(subject.classes))
    for name, texts in split.held_out.items():
        right = simpler.accuracies(texts)
        values |= {f"{name}_naive_bayes": right[LAPLACE], f"{name}_naive_bayes_best": max(right.values())}
    return Metrics(
        data=data,
        samples=int(tables[0].sum()),
        values=values,
        classes=evaluation.by_class(tables[0], subject.classes),
        confusion=tuple(tuple(map(int, row)) for row in tables[0]),
    )


def predict(model: bytes, features: NgramFeatures, texts: Sequence[str]) -> Array:
    """int64 [texts]: the class with the highest score."""
    loaded, predicted = session(model), np.zeros(len(texts), np.int64)
    for places, rows in by_length(features, texts):
        predicted[places] = loaded.run(["logits"], {features.input: rows})[0].argmax(axis=1)
    return predicted


def by_length(features: NgramFeatures, texts: Sequence[str]) -> Iterator[tuple[list[int], Array]]:
    """Texts that may share a run: their places and their features, int64 [at most ROWS, L]."""
    ngrams, of_length = Ngrams(features), dict[int, list[tuple[int, Array]]]()
    for place, text in enumerate(texts):
        row = ngrams.ids(text)
        of_length.setdefault(len(row), []).append((place, row))
    for found in of_length.values():
        for begin in range(0, len(found), ROWS):
            part = found[begin : begin + ROWS]
            yield [place for place, _ in part], np.stack([row for _, row in part])
