"""How good a classifier is: confusion, accuracy, precision, recall and F1."""

from collections.abc import Sequence

import numpy as np

from services.kit.inference.bundle import Array
from services.kit.inference.manifest import ClassMetrics


def confusion(true: Array, predicted: Array, classes: int) -> Array:
    """int64 [classes, classes]: samples, a row for each true class and a column for each predicted one.

    Args:
        true, predicted: integers [samples] in [0, classes).
    """
    table: Array = np.bincount(true * classes + predicted, minlength=classes * classes)
    return table.reshape(classes, classes)


def accuracy(table: Array) -> float:
    """The part of all samples that lies on the diagonal of a confusion table."""
    return round(float(np.trace(table) / table.sum()), 4)


def by_class(table: Array, labels: Sequence[str]) -> dict[str, ClassMetrics]:
    """Precision, recall and F1 of every class; 0 where there is nothing to divide by."""
    hits, wanted, found = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    return {
        label: ClassMetrics(
            precision=_ratio(hits[index], found[index]),
            recall=_ratio(hits[index], wanted[index]),
            f1=_ratio(2 * hits[index], wanted[index] + found[index]),
            samples=int(wanted[index]),
        )
        for index, label in enumerate(labels)
    }


def _ratio(part: int, whole: int) -> float:
    return round(float(part / whole), 4) if whole else 0.0
