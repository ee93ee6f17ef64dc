"""Draw: one token to choose, and what the graph takes and gives for some of them."""

import functools
import math
from collections.abc import Sequence as Several
from typing import NamedTuple

import numpy as np

from services.kit.inference.bundle import Array
from services.language.engine.drawn import Drawn, Draws, Wishes
from services.language.graph import MOST_ALTERNATIVES
from services.language.isolation import News
from services.language.sampling import SMALLEST
from services.language.sequence import Chosen, Sequence


class Draw(NamedTuple):
    """Where the logits of a token to choose are, and for whom."""

    row: int
    step: int
    sequence: Sequence
    forced: int = -1
    ahead: int = 0  # drafted tokens between the newest one of the text and this one
    draft: int | None = None  # what was taken to come of it


def arrays(draws: list[Draw], steps: int, most: int, before: Draws | None = None) -> Draws:
    """The draws as the graph takes them; where there is none, one whose token nobody looks at.

    Args:
        steps: of the run.
        most: tokens that a draw is made from, the most probable ones.
        before: those of another run, of the same texts at the same places.
    """
    wishes = before.wishes if before is not None else _wishes(draws, steps, most)
    uniform = [draw.sequence.draw(draw.ahead) for draw in draws] or [0.0]
    return Draws(wishes, uniform, _adjustments(draws))


def of_texts(rows: Several[int], texts: Several[Sequence], most: int, before: Draws | None = None) -> Draws:
    """The next token of each of these texts, as `arrays` has it, in a run of one step with these rows."""
    if all(text.plain for text in texts):
        return _greedy_draws(tuple(rows))
    return arrays([Draw(row, 0, text) for row, text in zip(rows, texts, strict=True)], 1, most, before)


def _wishes(draws: list[Draw], steps: int, most: int) -> Wishes:
    places = tuple([draw.row * steps + draw.step for draw in draws])
    wishes = [draw.sequence.sampling for draw in draws]
    if all(wish.greedy and not wish.alternatives for wish in wishes) and all(draw.forced < 0 for draw in draws):
        return _greedy(places or (0,), steps)
    top_k = [1 if wish.greedy else min(wish.top_k or most, most) for wish in wishes]
    return Wishes(
        out_index=np.array(places, np.int64),
        temperature=np.array([max(wish.temperature or 1.0, SMALLEST) for wish in wishes], np.float32),
        top_k=np.array(top_k, np.int64),
        top_p=np.array([wish.top_p for wish in wishes], np.float32),
        min_p=np.array([wish.min_p for wish in wishes], np.float32),
        forced=np.array([draw.forced for draw in draws], np.int64),
        candidates=_candidates(max(top_k), any(wish.alternatives for wish in wishes), most),
        most_probable=max(top_k) == 1,
    )


@functools.lru_cache(maxsize=64)
def _greedy(places: tuple[int, ...], steps: int) -> Wishes:
    """The same ones for the same places of a run of so many steps, so that memory which holds them is left alone."""
    return Wishes.greedy(np.array(places, np.int64))


@functools.lru_cache(maxsize=64)
def _greedy_draws(rows: tuple[int, ...]) -> Draws:
    return Draws(_greedy(rows, 1), [0.0] * len(rows))


def news_of(draws: list[Draw], drawn: Drawn) -> list[News]:
    """What the draws of one run mean for their texts, each of which may have several."""
    told: list[News] = []
    latest: dict[Sequence, News] = {}
    over: Sequence | None = None  # the text whose further draws follow a token that it has not
    for index, draw in enumerate(draws):
        sequence, token, logprob = draw.sequence, drawn.tokens[index], drawn.logprobs[index]
        if draw.ahead and sequence is over:
            continue
        sequence.overflowed |= math.isnan(logprob)
        number, given = len(sequence.made), sequence.scored_from is not None
        text = "" if given else sequence.take((token,))
        one = latest.get(sequence)
        if one is None or (one.text is None) != (text is None):
            one = latest[sequence] = News(sequence, number, [], None if text is None else "")
            told.append(one)
        one.chosen.append(Chosen(token, logprob, _alternatives(sequence, drawn, index)))
        one.text = None if one.text is None or text is None else one.text + text
        over = sequence if token != draw.draft or sequence.finish is not None else None
        if given and sequence.to_read == 0 and draw.step == draws[-1].step:
            sequence.finish = "length"
        one.finish = sequence.finish
    return told


def news_in_a_row(texts: Several[Sequence], runs: Several[Drawn]) -> list[News]:
    """What runs mean each of which drew the next token of every text.

    A text that has ended before the last one has drawn tokens too many; they are dropped.
    """
    told: list[News] = []
    tokens = zip(*(drawn.tokens for drawn in runs), strict=True)
    logprobs = zip(*(drawn.logprobs for drawn in runs), strict=True)
    for index, (text, its, their) in enumerate(zip(texts, tokens, logprobs, strict=True)):
        number = len(text.made)
        text.overflowed |= any(map(math.isnan, their))
        if not text.end.isdisjoint(its[:-1]):
            count = 1 + next(place for place, token in enumerate(its) if token in text.end)
            its, their = its[:count], their[:count]
        written = text.take(its)
        if text.sampling.alternatives:
            others = [_alternatives(text, drawn, index) for drawn in runs]
            chosen = list(map(Chosen, its, their, others))
        else:
            chosen = list(map(Chosen, its, their))
        told.append(News(text, number, chosen, written, text.finish))
    return told


def _alternatives(sequence: Sequence, drawn: Drawn, index: int) -> tuple[tuple[int, float], ...]:
    """The most probable tokens that were asked for, best first."""
    count = sequence.sampling.alternatives
    if not count:
        return ()
    told = [top[index, :MOST_ALTERNATIVES].tolist() for top in (drawn.top_tokens, drawn.top_logprobs)]
    pairs = zip(*told, strict=True)
    return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count])


def _candidates(top_k: int, told: bool, most: int) -> int:
    """How many tokens a run looks for: one of few numbers, as each is a shape of its own."""
    needed = max(top_k, MOST_ALTERNATIVES if told else 1)
    return next((count for count in (1, MOST_ALTERNATIVES) if needed <= count <= most), most)


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
