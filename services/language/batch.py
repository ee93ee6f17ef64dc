"""Batch: the texts in work, one to a slot, and the two kinds of run that take them on; for the scheduler's thread.

Slots are filled from 0 without holes. A run reads pieces of prompts, several prompts side by side; another one takes
every text that is being written one token further. A text that ends leaves its slot to the last one.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from services.kit.inference.bundle import Array
from services.language.prefixes import BLOCK, Prefixes
from services.language.runs import Drawn, Draws, Runs
from services.language.sampling import SMALLEST
from services.language.sequence import Chosen, Finish, Sequence


@dataclass(frozen=True, slots=True)
class News:
    """What a run made of one text."""

    sequence: Sequence
    index: int  # of the first token
    chosen: list[Chosen]
    text: str = ""
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class _Draw:
    """One token to choose: where its logits are, and for whom."""

    row: int
    step: int
    sequence: Sequence
    forced: int = -1


@dataclass(frozen=True, slots=True)
class Run:
    """One run that was made."""

    kind: str  # "prefill" or "decode"
    rows: int  # that took tokens
    tokens: int  # that they took
    seconds: float


class Batch:
    """Args:
    runs: the graphs and their caches.
    candidates: the most probable tokens that a draw is made from.
    prefixes: beginnings that were computed before; None for models with an encoder, where they depend on the source.
    """

    def __init__(self, runs: Runs, candidates: int, prefixes: Prefixes | None) -> None:
        self._runs, self._cache, self._cross = runs, runs.cache, runs.cross
        self._candidates, self._prefixes = candidates, prefixes
        self.rows: list[Sequence] = []
        self.last_run: Run | None = None
        self._shortest_next = False  # of the prompts that are read

    def fits(self, sequence: Sequence) -> bool:
        """Whether there is memory for it until its end, beside the others until theirs."""
        return self._cache.fits(len(self.rows) + 1, self._longest_of([sequence, *self.rows]))

    @property
    def reserved(self) -> int:
        """Tokens of the cache that the texts in work may fill until their ends."""
        return sum(row.longest for row in self.rows)

    @property
    def capacity(self) -> int:
        """Tokens that the cache has room for."""
        return self._cache.capacity

    def join(self, sequence: Sequence) -> int:
        """Gives it the next slot, with what is known of its beginning; how many tokens that is."""
        slot = len(self.rows)
        self.rows.append(sequence)
        if sequence.source is not None and self._cross is not None:
            lengths = [len(row.source or ()) for row in self.rows]
            self._cross.settle(max(lengths), lengths[:-1])
            self._runs.encode(slot, sequence.source)
        if self._prefixes is None or sequence.scored_from is not None:
            return 0
        blocks = self._prefixes.longest([*sequence.prompt, *sequence.made])
        self._settle([BLOCK * len(blocks)])
        for block in blocks:
            self._cache.write(slot, sequence.cached, block)
            sequence.cached += BLOCK
        return sequence.cached

    def remove(self, sequence: Sequence) -> None:
        """Takes a text out; the last one moves to its slot."""
        slot, last = self.rows.index(sequence), len(self.rows) - 1
        self._remember(slot)
        if slot != last:
            mover = self.rows[slot] = self.rows[last]
            self._cache.move(last, slot, mover.cached)
            if self._cross is not None:
                self._cross.move(last, slot, len(mover.source or ()))
        self.rows.pop()

    def prefill(self, budget: int) -> list[News]:
        """Reads on in prompts, in one run of at most so many tokens; nothing if none has more than its last token left.

        A prompt's last piece gives its first token.
        """
        group = self._reading(budget)
        if not group:
            return []
        first, steps = group[0], min(budget, max(self.rows[slot].to_read for slot in group))
        fed = [min(self.rows[slot].to_read, steps) for slot in group]
        token_ids = np.zeros((len(group), steps), np.int64)
        for row, (slot, count) in enumerate(zip(group, fed, strict=True)):
            sequence = self.rows[slot]
            token_ids[row, :count] = sequence.tokens_from(sequence.cached, count)
        draws = [
            draw
            for row, (slot, count) in enumerate(zip(group, fed, strict=True))
            for draw in self._draws_of(row, self.rows[slot], count)
        ]
        drawn = self._run("prefill", first, token_ids, draws, fed)
        return self._news(draws, drawn)

    def decode(self) -> list[News]:
        """Takes every text that is being written one token further, in one run."""
        writing = [slot for slot, row in enumerate(self.rows) if row.to_read == 1 and row.scored_from is None]
        if not writing:
            return []
        rows = self.rows[: writing[-1] + 1]
        token_ids = np.zeros((len(rows), 1), np.int64)
        fed = [0] * len(rows)
        for slot in writing:
            token_ids[slot, 0] = rows[slot].token_at(rows[slot].tokens - 1)
            fed[slot] = 1
        draws = [_Draw(slot, 0, rows[slot]) for slot in writing]
        return self._news(draws, self._run("decode", 0, token_ids, draws, fed))

    def _reading(self, budget: int) -> list[int]:
        """The neighbouring slots whose prompts are read in one run.

        Where one run cannot have all of them, every second one begins with the prompt that has least left: a short one
        does not wait for long ones, and those go on.
        """
        reading = [slot for slot, row in enumerate(self.rows) if row.to_read > 1 or row.scored_from is not None]
        group = self._side_by_side(reading, budget)
        if len(group) < len(reading):
            self._shortest_next = not self._shortest_next
            if self._shortest_next:
                shortest = min(reading, key=lambda slot: self.rows[slot].to_read)
                group = self._side_by_side(reading[reading.index(shortest) :], budget)
        return group

    def _side_by_side(self, reading: list[int], budget: int) -> list[int]:
        """As many of these slots, from the first one on, as are neighbours and fit into one run."""
        group: list[int] = []
        steps, room = 0, self._cache.room(self._longest_of(self.rows))  # memory is there for no more, also for padding
        for slot in reading:
            row = self.rows[slot]
            if group and slot != group[-1] + 1:
                break
            wider = max(steps, min(row.to_read, budget))
            members = [*group, slot]
            too_much = len(members) * wider > budget or row.scored_from is not None
            too_long = any(self.rows[member].cached + wider > room for member in members)
            if group and (too_much or too_long):
                break
            group, steps = members, wider
            if row.scored_from is not None:
                break
        return group

    @staticmethod
    def _longest_of(texts: list[Sequence]) -> int:
        """Tokens that the longest of them may have; 0 if there is none."""
        return max((text.longest for text in texts), default=0)

    def _draws_of(self, row: int, sequence: Sequence, count: int) -> Iterator[_Draw]:
        """The tokens to choose after `count` more of them were read."""
        if sequence.scored_from is None:
            if count == sequence.to_read:
                yield _Draw(row, count - 1, sequence)
            return
        for step in range(count):
            position = sequence.cached + step + 1
            if sequence.scored_from <= position:
                yield _Draw(row, step, sequence, sequence.scored[position - sequence.scored_from])

    def _run(self, kind: str, first: int, token_ids: Array, draws: list[_Draw], fed: list[int]) -> Drawn:
        rows, steps = token_ids.shape
        started = time.monotonic()
        members = self.rows[first : first + rows]
        self._settle([row.cached + steps for row in members])
        start = np.array([row.cached for row in members], np.int64)
        lengths = np.array([len(row.source or ()) for row in members], np.int64) if self._cross is not None else None
        drawn = self._runs.run(first, token_ids, start, self._arrays(draws, steps), lengths)
        seconds = time.monotonic() - started
        for row, count in zip(members, fed, strict=True):
            row.cached += count
            if count:
                row.compute_s += seconds
                row.largest_batch = max(row.largest_batch, rows)
                if row.cached == len(row.prompt):
                    self._remember(self.rows.index(row, first))
        self.last_run = Run(kind, sum(map(bool, fed)), sum(fed), seconds)
        return drawn

    def _settle(self, needed: list[int]) -> None:
        used = [row.cached for row in self.rows]
        self._cache.settle(max([1, *needed, *(count + 1 for count in used)]), used)

    def _remember(self, slot: int) -> None:
        """Keeps what a slot has for prompts that begin alike."""
        row = self.rows[slot]
        if self._prefixes is not None and row.scored_from is None:
            tokens = row.tokens_from(0, row.cached)
            self._prefixes.keep(tokens, lambda begin, end: self._cache.read(slot, begin, end))

    def _arrays(self, draws: list[_Draw], steps: int) -> Draws:
        """The draws as the graph takes them; where there is none, one whose token nobody looks at."""
        wishes = [draw.sequence.sampling for draw in draws]
        if not draws:
            ones = np.ones(1, np.float32)
            none = np.zeros(1, np.int64)
            return Draws(none, ones, none + 1, ones, ones * 0, ones * 0, none - 1)
        most = self._candidates
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

    def _news(self, draws: list[_Draw], drawn: Drawn) -> list[News]:
        """What each draw means for its text, in order."""
        tokens, logprobs = drawn.token.tolist(), drawn.logprob.tolist()
        news: list[News] = []
        for index, draw in enumerate(draws):
            sequence, token = draw.sequence, tokens[index]
            chosen = Chosen(token, logprobs[index], _alternatives(sequence, drawn, index))
            if sequence.scored_from is None:
                number = len(sequence.made)
                text = sequence.take(token)
                news.append(News(sequence, number, [chosen], text, sequence.finish))
                continue
            done = sequence.to_read == 0 and draw.step == draws[-1].step
            news.append(News(sequence, 0, [chosen], finish="length" if done else None))
            sequence.finish = news[-1].finish
        return news


def _alternatives(sequence: Sequence, drawn: Drawn, index: int) -> tuple[tuple[int, float], ...]:
    """The most probable tokens that were asked for, best first."""
    count = sequence.sampling.alternatives
    if not count:
        return ()
    pairs = zip(drawn.top_token[index].tolist(), drawn.top_logprob[index].tolist(), strict=True)
    return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count])


def _adjustments(draws: list[_Draw]) -> tuple[Array, Array, Array] | None:
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
