"""Features: a text to the hashes of its runs of characters, which a classifier looks up; numpy and nothing else."""

import unicodedata

import numpy as np

from services.kit.inference.bundle import Array
from services.kit.inference.manifest import NgramFeatures

SHORTEST = 16  # features of a row at least
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd; 2**64 over the golden ratio
_HALF = np.uint64(32)


class Ngrams:
    """From texts to features, the same ones on every machine.

    Args:
        features: lengths of the runs, and how many different features there are.
    """

    def __init__(self, features: NgramFeatures) -> None:
        self._features = features
        self._buckets = np.uint64(features.buckets)

    def ids(self, text: str) -> Array:
        """int64 [L]: one feature in [1, buckets] for each run of characters, then 0 up to a power of two >= 16.

        A row computes the same bits alone and among others of its L: only such rows may share a run. Characters beyond
        `max_characters` are not looked at; a text without any visible character has no feature.
        """
        codes = np.frombuffer(self._plain(text).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
        runs = self._runs(codes)
        count = sum(map(len, runs))
        padded = np.zeros(max(SHORTEST, 1 << (count - 1).bit_length()), np.int64)
        if count:
            padded[:count] = np.concatenate(runs)
        return padded

    def _plain(self, text: str) -> str:
        """The text between spaces, with single spaces within, in Unicode's compatibility form."""
        limit = self._features.max_characters
        text = unicodedata.normalize("NFKC", text[:limit])
        words = (text.casefold() if self._features.casefold else text)[:limit].split()
        return f" {' '.join(words)} " if words else ""

    def _runs(self, codes: Array) -> list[Array]:
        """For each length of a run the feature of every run of that length; a space alone is none.

        Args:
            codes: uint64 [characters].
        """
        found, hashes = [], np.zeros(len(codes), np.uint64)
        for length in range(1, min(self._features.largest, len(codes)) + 1):
            hashes = hashes[: len(codes) - length + 1] ^ codes[length - 1 :]
            hashes = hashes * _MULTIPLIER
            hashes ^= hashes >> _HALF
            if length >= self._features.smallest:
                found.append(hashes[codes != 32] if length == 1 else hashes)
        return [(run * _MULTIPLIER >> _HALF) % self._buckets + np.uint64(1) for run in found]
