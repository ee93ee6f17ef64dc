"""What a run is asked to draw, and what came out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from services.kit.inference.bundle import Array


@dataclass(frozen=True, slots=True, eq=False)
class Wishes:
    """Which positions get a token, and how each is chosen; one entry each. They stay, while the same texts go on."""

    out_index: Array  # int64: row * steps + step
    temperature: Array  # float32, more than 0
    top_k: Array  # int64; 1 takes the most probable token
    top_p: Array  # float32
    min_p: Array  # float32
    forced: Array  # int64: -1, or the token to take
    candidates: int = 1  # tokens that a draw is made from at most, and that are told
    most_probable: bool = True  # whether each top_k is 1

    @classmethod
    def greedy(cls, out_index: Array) -> "Wishes":
        """The most probable token at each of these places."""
        count = len(out_index)
        one, zero = np.ones(count, np.float32), np.zeros(count, np.float32)
        return cls(out_index, one, np.ones(count, np.int64), one, zero, np.full(count, -1))


@dataclass(frozen=True, slots=True)
class Draws:
    """The tokens to choose in one run."""

    wishes: Wishes
    uniform: Sequence[float]  # in [0, 1), of each draw
    adjust: tuple[Array, Array, Array] | None = None  # int64 [changes, 2], float32 [changes], float32 [changes]


class Drawn(NamedTuple):
    """What came out, for each draw."""

    tokens: list[int]
    logprobs: list[float]
    top_tokens: Array  # int64 [draws or more, candidates]; until the next run
    top_logprobs: Array  # float32 [draws or more, candidates]; until the next run

    def kept(self) -> "Drawn":
        """What it says stays."""
        return Drawn(self.tokens, self.logprobs, self.top_tokens.copy(), self.top_logprobs.copy())
