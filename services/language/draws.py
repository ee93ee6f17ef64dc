"""Draw: one token to choose, and what the graph takes and gives for some of them."""

from dataclasses import dataclass

import numpy as np

from services.kit.inference.bundle import Array
from services.language.runs import Drawn, Draws
from services.language.sampling import SMALLEST
from services.language.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Draw:
    """Where the logits of a token to choose are, and for whom."""

    row: int
    step: int
    sequence: Sequence
    forced: int = -1


def arrays(draws: list[Draw], steps: int, candidates: int) -> Draws:
    """The draws as the graph takes them; where there is none, one whose token nobody looks at.

    Args:
        steps: of the run.
        candidates: the most probable tokens that a draw is made from.
    """
    wishes = [draw.sequence.sampling for draw in draws]
    if not draws:
        ones = np.ones(1, np.float32)
        none = np.zeros(1, np.int64)
        return Draws(none, ones, none + 1, ones, ones * 0, ones * 0, none - 1)
    most = candidates
    return Draws(
        out_index=np.array([draw.row * steps + draw.step for draw in draws], np.int64),
        temperature=np.array([max(wish.temperature or 1.0, SMALLEST) for wish in wishes], np.float32),
        top_k=np.array([1 if wish.greedy else min(wish.top_k or most, most) for wish in wishes], np.int64),
        top_p=np.array([wish.top_p for wish in wishes], np.float32),
        min_p=np.array([wish.min_p for wish in wishes], np.float32),
        uniform=np.array([draw.sequence.draw() for draw in draws], np.float32),
        forced=np.array([draw.forced for draw in draws], np.int64),
        adjust=_adjustments(draws),
    )


def alternatives(sequence: Sequence, drawn: Drawn, index: int) -> tuple[tuple[int, float], ...]:
    """The most probable tokens that were asked for, best first."""
    count = sequence.sampling.alternatives
    if not count:
        return ()
    pairs = zip(drawn.top_token[index].tolist(), drawn.top_logprob[index].tolist(), strict=True)
    return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count])


def _adjustments(draws: list[Draw]) -> tuple[Array, Array, Array] | None:
    """The logits to change for all draws, or None."""
    parts = [
        (index, draw.sequence.adjustments.now())
        for index, draw in enumerate(draws)
        if draw.sequence.adjustments is not None
    ]
    parts = [(index, part) for index, part in parts if len(part[0])]
    if not parts:
        return None
    rows = np.concatenate([np.full(len(tokens), index, np.int64) for index, (tokens, _, _) in parts])
    tokens, scales, biases = (np.concatenate([part[at] for _, part in parts]) for at in range(3))
    return np.ascontiguousarray(np.stack([rows, tokens], axis=1)), scales, biases
