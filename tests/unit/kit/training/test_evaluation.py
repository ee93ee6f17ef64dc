import numpy as np

from services.kit.inference.manifest import ClassMetrics
from services.kit.training import evaluation


def test_confusion_has_a_row_for_each_true_class() -> None:
    table = evaluation.confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 1]), 3)
    assert table.tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]
    assert evaluation.accuracy(table) == 0.5


def test_metrics_of_a_class_follow_their_definitions() -> None:
    table = np.array([[8, 2], [4, 6]])
    assert evaluation.by_class(table, ("no", "yes"))["yes"] == ClassMetrics(0.75, 0.6, 0.6667, 10)


def test_a_class_that_never_occurs_has_zeros() -> None:
    assert evaluation.by_class(np.array([[1, 0], [0, 0]]), ("no", "yes"))["yes"] == ClassMetrics(0, 0, 0, 0)
