"""Ranking: scores of classes to the best of them, with their probabilities."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.kit.errors import InvalidField
from services.kit.inference.bundle import Array
from trivium.common.v1 import classes_pb2

MAX_TOP_K = 100


@dataclass(frozen=True, slots=True)
class RankedClass:
    """One class of an answer."""

    label: str
    index: int
    probability: float


def top_k(request: Any, default: int) -> int:
    """How many classes the caller wants: the request's optional field `top_k`.

    Raises:
        InvalidField: it lies outside [1, MAX_TOP_K].
    """
    if not request.HasField("top_k"):
        return default
    wanted: int = request.top_k
    if not 1 <= wanted <= MAX_TOP_K:
        raise InvalidField(
            f"top_k is {wanted} and must lie in [1, {MAX_TOP_K}]",
            field="top_k",
            limit=f"[1, {MAX_TOP_K}]",
            value=str(wanted),
        )
    return wanted


def rank(scores: Array, labels: Sequence[str], top_k: int, *, softmax: bool) -> list[RankedClass]:
    """The most probable classes, best first, of equal ones the lower index first; at most `top_k`.

    Args:
        scores: finite numbers [classes].
        labels: by index; without any, a class is called by its index.
        softmax: whether the scores are logits, and no probabilities yet.
    """
    (ranked,) = rank_rows(scores[np.newaxis], labels, top_k, softmax=softmax)
    return ranked


def rank_rows(scores: Array, labels: Sequence[str], top_k: int, *, softmax: bool) -> list[list[RankedClass]]:
    """The same for each row of finite numbers [rows, classes]; a row gets the same bits alone and beside others."""
    wide = scores.astype(np.float64)
    probabilities = softmaxed(wide) if softmax else wide
    best = np.argsort(-wide, axis=-1, kind="stable")[:, :top_k]
    rows = zip(best.tolist(), np.take_along_axis(probabilities, best, axis=-1).tolist(), strict=True)
    return [
        [RankedClass(labels[index] if labels else str(index), index, value) for index, value in zip(*row, strict=True)]
        for row in rows
    ]


def softmaxed(scores: Array) -> Array:
    """Probabilities, float32 [..., classes], of logits, float64; exact sums and no overflow at any size."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities: Array = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return probabilities


def encoded(ranked: Iterable[RankedClass]) -> list[classes_pb2.RankedClass]:
    """The classes as messages."""
    return [
        classes_pb2.RankedClass(label=found.label, index=found.index, probability=found.probability) for found in ranked
    ]
