"""What python-gpt is measured against: gzip, and an interpolated 5-gram model over bytes."""

import gzip
import math

import numpy as np

from services.kit.inference.bundle import Array

ORDER = 5  # bytes of the longest run that is counted
FITTED_ON = 10  # one of so many blocks of the training text sets the weights, which the others' counts then get
BLOCK = 1 << 14  # bytes
ROUNDS = 30  # of expectation and maximisation
CLASSES = 24  # of contexts, by how often they were seen


def gzip_bits_per_byte(text: bytes) -> float:
    """Of gzip -9, which sees the text alone."""
    return 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)


class Ngrams:
    """P(byte | the 4 before it), from the frequencies after 4, 3, 2, 1 and 0 bytes and 1/256, each weighted.

    The weight of an order depends on how often its context was seen; all weights are fitted to text that is not counted
    meanwhile. Source: F. Jelinek and R. Mercer, Interpolated estimation of Markov source parameters from sparse data,
    1980.
    """

    def __init__(self, text: bytes) -> None:
        blocks = [text[at : at + BLOCK] for at in range(0, len(text), BLOCK)]
        apart = b"".join(blocks[::FITTED_ON])
        rest = b"".join(block for number, block in enumerate(blocks) if number % FITTED_ON)
        self._counts = _counts(rest)
        self._weights = np.full((ORDER, CLASSES), 0.5)
        self._weights[:, 0] = 0.0  # contexts never seen
        self._fit(apart)
        self._counts = _counts(text)

    def bits_per_byte(self, text: bytes) -> float:
        """Of a text that is read byte by byte; its first 4 bytes are context alone."""
        frequencies, classes = self._look_up(text)
        return float(-np.log2(self._parts(frequencies, classes).sum(0)).mean())

    def _look_up(self, text: bytes) -> tuple[Array, Array]:
        """For every order and byte from the fifth on: the byte's frequency in its context, and the context's class."""
        frequencies, classes = [], []
        for order in range(1, ORDER + 1):
            runs = _runs(text, order)[ORDER - order :]
            seen, after = _times(self._counts[order], runs), _times(self._counts[order - 1], runs >> np.uint64(8))
            frequencies.append(seen / np.maximum(after, 1))
            classes.append(np.minimum(np.ceil(np.log2(after + 1)).astype(np.int64), CLASSES - 1))
        return np.stack(frequencies), np.stack(classes)

    def _parts(self, frequencies: Array, classes: Array) -> Array:
        """float64 [1 + ORDER, bytes]: what each order adds to the probability, 1/256 first; their sum is it."""
        left = np.ones(frequencies.shape[1])
        parts = np.empty((1 + ORDER, len(left)))
        for order in range(ORDER, 0, -1):
            weight = self._weights[order - 1][classes[order - 1]]
            parts[order] = left * weight * frequencies[order - 1]
            left = left * (1 - weight)
        parts[0] = left / 256
        return parts

    def _fit(self, text: bytes) -> None:
        frequencies, classes = self._look_up(text)
        for _ in range(ROUNDS):
            parts = self._parts(frequencies, classes)
            shares = parts / parts.sum(0)
            reached = np.cumsum(shares, axis=0)[1:]  # by the order or a lower one
            for order in range(ORDER):
                taken = np.bincount(classes[order], shares[order + 1], CLASSES)
                given = np.bincount(classes[order], reached[order], CLASSES)
                self._weights[order] = taken / (given + 1)  # below 1, so that nothing is impossible


def _counts(text: bytes) -> list[tuple[Array, Array]]:
    """For 0 to ORDER bytes: the runs that occur, ascending, and how often."""
    empty = np.zeros(1, np.uint64), np.array([len(text)])
    return [empty, *(np.unique(_runs(text, order), return_counts=True) for order in range(1, ORDER + 1))]


def _runs(text: bytes, length: int) -> Array:
    """uint64 [bytes - length + 1]: every run of so many bytes, as a number."""
    values = np.frombuffer(text, np.uint8).astype(np.uint64)
    runs: Array = np.zeros(len(values) - length + 1, np.uint64)
    for at in range(length):
        runs = (runs << np.uint64(8)) | values[at : len(runs) + at]
    return runs


def _times(counts: tuple[Array, Array], runs: Array) -> Array:
    """How often each run was counted."""
    known, times = counts
    at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
    return np.where(known[at] == runs, times[at], 0)


def bits(nats: float) -> float:
    """Bits of natural logarithms."""
    return nats / math.log(2)
