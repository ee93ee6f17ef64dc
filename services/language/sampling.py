"""Sampling: how the tokens of one text are chosen, and the draws, which are a function of (seed, position) alone.

So another process draws the same tokens, whatever runs beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from services.kit.inference.bundle import Array

MASK = (1 << 64) - 1
FORBIDDEN = -1e30  # what makes a logit too small for any draw
SMALLEST = 1e-6  # that a logit is divided by: less makes it infinite, and then nothing can be drawn


@dataclass(frozen=True, slots=True)
class Sampling:
    """One request's wishes, in their ranges."""

    temperature: float = 0.0  # 0: the most probable token
    top_k: int = 0  # 0: as many as the graph draws from
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    ignore_eos: bool = False
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    alternatives: int | None = None  # log-probabilities asked for, and how many besides the token's own

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0.0

    @property
    def penalizes(self) -> bool:
        """Whether logits depend on the tokens so far."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


def uniform(seed: int, position: int) -> float:
    """The draw for the token at `position` of a text, in [0, 1); a multiple of 2**-24, which float32 has exactly.

    Source: splitmix64's finalizer, Steele, Lea and Flood, OOPSLA 2014.
    """
    return (_mix(_mix(seed & MASK) ^ (position & MASK)) >> 40) * 2.0**-24


def seed_of(seed: int, choice: int) -> int:
    """The seed of the text number `choice` of a request; that of the first one is the request's own."""
    return seed if choice == 0 else _mix(seed ^ _mix(choice))


def _mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class Adjustments:
    """What is done to single logits before the next draw of one text: penalties, biases, ends that may not come yet.

    Args:
        prompt: its tokens, which the repetition penalty looks at.
        forbidden: tokens that may not be drawn before `min_new_tokens`.
    """

    def __init__(self, sampling: Sampling, prompt: list[int], forbidden: frozenset[int]) -> None:
        self._sampling, self._forbidden = sampling, forbidden
        self._made = 0
        self._counts: dict[int, int] = {}  # of every token that is adjusted, how often the text has it
        self._places: dict[int, int] = {}  # where it is in the arrays
        self._repeated = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        tokens = [*sampling.logit_bias, *(forbidden if sampling.min_new_tokens else ()), *self._repeated]
        room = len(tokens) + 16
        self._tokens, self._scales, self._biases = (np.empty(room, kind) for kind in (np.int64, np.float32, np.float32))
        for token in tokens:
            self._counts[token] = 0
            self._set(token)

    def made(self, token: int) -> None:
        """The text has one more token."""
        self._made += 1
        sampling = self._sampling
        if sampling.penalizes:
            self._counts[token] = self._counts.get(token, 0) + 1
            self._repeated.add(token)
            self._set(token)
        if self._made == sampling.min_new_tokens:
            for allowed in self._forbidden:
                self._set(allowed)

    def now(self) -> tuple[Array, Array, Array]:
        """The tokens int64 [A], and scale and bias float32 [A] of each of their logits; valid until the next token."""
        count = len(self._places)
        return self._tokens[:count], self._scales[:count], self._biases[:count]

    def _set(self, token: int) -> None:
        """What is done to one logit; the others stay, so that a token costs the same after a long text."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._tokens):
            self._tokens, self._scales, self._biases = (
                np.concatenate((array, np.empty_like(array))) for array in (self._tokens, self._scales, self._biases)
            )
        self._tokens[place], self._scales[place], self._biases[place] = token, self._scale(token), self._bias(token)

    def _scale(self, token: int) -> float:
        return max(self._sampling.repetition_penalty, SMALLEST) if token in self._repeated else 1.0

    def _bias(self, token: int) -> float:
        sampling = self._sampling
        if self._made < sampling.min_new_tokens and token in self._forbidden:
            return FORBIDDEN
        count = self._counts[token]
        penalty = sampling.presence_penalty * (count > 0) + sampling.frequency_penalty * count
        return sampling.logit_bias.get(token, 0.0) - penalty
