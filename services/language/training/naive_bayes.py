"""Naive Bayes on runs of characters: what a classifier of texts must be better than."""

from collections.abc import Iterator

import numpy as np

from services.kit.inference.bundle import Array
from services.language.training.labelled import Labelled

LAPLACE = 1.0  # occurrences added to those of every run
SMOOTHINGS = (LAPLACE, 0.3, 0.1, 0.03, 0.01)
SMALLEST, LARGEST = 1, 4  # characters of a run


class NaiveBayes:
    """How often each run of characters is in the texts of each class.

    Args:
        train: what is counted.
        classes: how many there are.
    """

    def __init__(self, train: Labelled, classes: int) -> None:
        self._numbers: dict[str, int] = {}
        rows = [
            np.array([self._numbers.setdefault(run, len(self._numbers)) for run in _runs(text)], np.int64)
            for text in train.texts
        ]
        runs = len(self._numbers)
        labels = np.repeat(train.labels, [len(row) for row in rows])
        counted = np.bincount(labels * runs + np.concatenate(rows), minlength=classes * runs)
        self._counts = counted.reshape(classes, runs)
        self._share = np.log(np.bincount(train.labels, minlength=classes) / len(train))

    def accuracies(self, texts: Labelled) -> dict[float, float]:
        """The part of the texts that it gets right, for each of SMOOTHINGS."""
        known = [
            np.array([self._numbers[run] for run in _runs(text) if run in self._numbers], np.int64)
            for text in texts.texts
        ]
        return {smoothing: round(self._right(known, texts, smoothing) / len(texts), 4) for smoothing in SMOOTHINGS}

    def _right(self, known: list[Array], texts: Labelled, smoothing: float) -> int:
        """How many texts get their own class.

        Args:
            known: the runs of each text that the training had.
        """
        whole = self._counts.sum(1) + smoothing * self._counts.shape[1]
        evidence = np.log(self._counts.T + smoothing) - np.log(whole)  # [runs, classes]
        found = (int((self._share + evidence[runs].sum(0)).argmax()) for runs in known)
        return sum(mine == label for mine, label in zip(found, texts.labels, strict=True))


def _runs(text: str) -> Iterator[str]:
    within = f" {text.casefold()} "
    for length in range(SMALLEST, LARGEST + 1):
        yield from (within[at : at + length] for at in range(len(within) - length + 1))
