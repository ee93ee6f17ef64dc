"""Batch: the texts in work, one to a slot, and the kinds of run that take them on; for the scheduler's thread.

Slots are filled from 0 without holes. A run reads the sources of those that have just joined; one reads pieces of
prompts, several prompts side by side; another one takes every text that is being written one token further, or some
tokens where few texts are written and drafts of what comes next are right. A text that ends leaves its slot to the last
one.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np

from services.kit.inference.bundle import Array
from services.language.drafts import SURE, SURE_ALONE, Drafts
from services.language.draws import Draw, arrays, news_in_a_row, news_of, of_texts
from services.language.engine.drawn import Drawn, Draws
from services.language.engine.memory import Memory
from services.language.engine.prefixes import BLOCK, Prefixes
from services.language.engine.runs import Runs
from services.language.isolation import AGAIN, Made, News, RunFailed
from services.language.multi_step import MultiStep
from services.language.reading import Reading, before_scored
from services.language.sequence import Sequence

Told = Callable[[list[Drawn]], list[News]]  # what runs mean for their texts


class Batch:
    """Args:
    runs: the graphs and their caches.
    candidates: the most probable tokens that a draw is made from.
    prefixes: beginnings that were computed before; None for models with an encoder, where they depend on the source.
    most_scored: tokens whose probabilities are looked at in one run.
    speculative: tokens that are drafted for one text; several share them. Only where the bits of a text do not depend
        on how it is cut into runs.
    """

    def __init__(
        self, runs: Runs, candidates: int, prefixes: Prefixes | None, most_scored: int, speculative: int = 0
    ) -> None:
        self._runs, self._cache, self._cross = runs, runs.cache, runs.cross
        self._candidates, self._prefixes, self._speculative = candidates, prefixes, speculative
        self._memory, self._reading = Memory(runs.cache, runs.cross), Reading(most_scored)
        self.rows: list[Sequence] = []
        self._resting = 0  # runs before anything is drafted again
        # What the last run that took texts one token further has drawn, in which rows, for whom.
        self._drew: tuple[tuple[list[int], list[Sequence]], Draws | None] = ([], []), None

    def fits(self, sequence: Sequence) -> bool:
        """Whether there is memory for it until its end, beside the others until theirs."""
        return len(self.rows) < self.places([sequence, *self.rows])

    def places(self, texts: list[Sequence]) -> int:
        """How many texts like the longest of these there is memory for; any thread may ask."""
        return self._memory.texts(max(text.longest for text in texts), max(len(text.source or ()) for text in texts))

    @property
    def writing(self) -> list[int]:
        """The slots of the texts that take one token in the next run."""
        return [slot for slot, row in enumerate(self.rows) if row.tokens - row.cached == 1 and row.scored_from is None]

    @property
    def to_read(self) -> bool:
        """Whether some text has more to read than the token that was made last."""
        return any(row.tokens - row.cached > 1 or row.scored_from is not None or not row.encoded for row in self.rows)

    @property
    def reserved(self) -> int:
        """Tokens of the caches that the texts in work may fill until their ends."""
        return sum(row.longest + len(row.source or ()) for row in self.rows)

    @property
    def capacity(self) -> int:
        """Tokens that the caches have room for."""
        return self._memory.capacity

    def join(self, sequence: Sequence) -> int:
        """Gives it the next slot, with what is known of its beginning; how many tokens that is."""
        slot = len(self.rows)
        self.rows.append(sequence)
        if self._prefixes is None or sequence.scored_from is not None:
            return 0
        blocks = self._prefixes.longest([*sequence.prompt, *sequence.made])
        self._settle(BLOCK * len(blocks))
        self._prefixes.put(slot, blocks)
        sequence.cached = BLOCK * len(blocks)
        return sequence.cached

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Takes a text out; the last one moves to its slot.

        Args:
            keep: what was computed of it may serve others.
        """
        slot, last = self.rows.index(sequence), len(self.rows) - 1
        if sequence.overflowed or not sequence.made:  # without a draw it is not known
            self._cache.clear(slot)
        elif keep:
            self._remember(slot)
        if slot != last:
            mover = self.rows[slot] = self.rows[last]
            self._cache.move(last, slot, mover.cached)
            if self._cross is not None:
                self._cross.move(last, slot, len(mover.source or ()))
        self.rows.pop()

    def encode(self, slots: list[int] | None = None) -> Made | None:
        """Reads the sources of the texts that have joined, in one run, before anything else is done with them.

        Raises:
            RunFailed, as all runs: they are as they were before. So below.
        """
        slots = slots or [slot for slot, row in enumerate(self.rows) if not row.encoded]
        if not slots:
            return None
        started = time.monotonic()
        texts = self.rows[slots[0] : slots[-1] + 1]
        sources = [row.source or [] for row in texts]
        self._settle_sources()
        try:
            self._runs.encode(slots[0], sources)
        except Exception as error:  # onnxruntime's own classes share no other base
            raise RunFailed(slots, texts) from error
        seconds = time.monotonic() - started
        for row in texts:
            row.encoded = True
            row.compute_s += seconds
        return Made("encode", len(texts), sum(map(len, sources)), [seconds])

    def prefill(self, budget: int, slots: list[int] | None = None) -> Made | None:
        """Reads on in prompts, in one run of at most so many tokens; nothing if none has more than its last token left.

        A prompt's last piece gives its first token.
        """
        group = slots or self._reading.group(self.rows, budget, self._room())
        if not group:
            return None
        texts = self.rows[group[0] : group[-1] + 1]
        fed = [self._reading.piece(row, budget) for row in texts]
        token_ids = [row.tokens_from(row.cached, count) for row, count in zip(texts, fed, strict=True)]
        draws = [
            draw
            for row, (sequence, count) in enumerate(zip(texts, fed, strict=True))
            for draw in _draws_of(row, sequence, count)
        ]
        given = arrays(draws, max(fed), self._candidates)
        made = self._run("prefill", group[0], token_ids, given, fed, lambda runs: news_of(draws, *runs))
        self._remember_prompts(group)
        return made

    def decode(self, slots: list[int] | None = None, goes_on: Callable[[], bool] = lambda: False) -> Made | None:
        """Takes every text that is being written one token further, in one run, or some where drafts are right.

        Args:
            goes_on: asked after a run whether the next one may follow before anything else is done with its texts.
        """
        writing = slots or self.writing
        if not writing:
            return None
        if slots is None and (drafts := self._drafts(writing)) is not None:
            made = self._decode_drafts(drafts)
            self._remember_prompts(writing)
            return made
        first = slots[0] if slots else 0  # always the same one, so that what is bound to memory serves again
        texts = [self.rows[slot] for slot in writing]
        rows, (written, before) = [slot - first for slot in writing], self._drew
        draws = of_texts(rows, texts, self._candidates, before if written == (rows, texts) else None)
        self._drew = (rows, texts), draws
        token_ids, fed = [[0]] * (rows[-1] + 1), [0] * (rows[-1] + 1)
        for row, text in zip(rows, texts, strict=True):
            token_ids[row] = [text.newest]
            fed[row] = 1
        steps = None if slots else self._steps(texts, goes_on)
        made = self._run("decode", first, token_ids, draws, fed, lambda runs: news_in_a_row(texts, runs), steps)
        if steps is None:  # as where a text gets its first token
            self._remember_prompts(writing)
        return made

    def _steps(self, texts: list[Sequence], goes_on: Callable[[], bool]) -> MultiStep | None:
        """The runs that may follow the next one at once; None if something is to be done before."""
        if len(texts) < len(self.rows):
            return None
        room = self._cache.room(1 + max([row.cached for row in self.rows]))
        most = min([min(row.steps, room - row.cached) for row in self.rows])
        if self._most_drafted and not self._resting:
            most = min(most, *(row.until_draft(self._sure) for row in self.rows))
        return MultiStep(texts, most, goes_on) if most > 1 else None

    @property
    def _most_drafted(self) -> int:
        """Tokens that may be drafted for each text; several share what may be."""
        return max(0, (1 + self._speculative) // len(self.rows) - 1)

    @property
    def _sure(self) -> float:
        """The part of a text's last guesses that must have been right for a draft."""
        return SURE if len(self.rows) > 1 else SURE_ALONE

    def _drafts(self, writing: list[int]) -> Drafts | None:
        """What may come next of these texts; None if nothing is known, or a run would take too many tokens with it."""
        if not self._most_drafted or self._resting:
            self._resting = max(0, self._resting - 1)
            return None
        room = self._room() - 1 - max(row.cached for row in self.rows[: writing[-1] + 1])
        drafts = Drafts({slot: self.rows[slot] for slot in writing}, min(self._most_drafted, room), self._sure)
        return drafts if drafts.steps > 1 else None

    def _decode_drafts(self, drafts: Drafts) -> Made:
        """Takes each of these texts one token further, and as many more as its draft has right."""
        draws = drafts.draws()
        token_ids, fed = drafts.token_ids(), drafts.fed()
        given = arrays(draws, drafts.steps, self._candidates)
        try:
            made = self._run("decode", 0, token_ids, given, fed, lambda runs: news_of(draws, *runs))
        except RunFailed:
            self._resting = AGAIN
            raise
        drafts.judge()
        return made

    def probe(self) -> None:
        """Runs one token in the slot that a text has just left. Raises what the graphs raise if they can do no run."""
        slot, lengths = len(self.rows), None
        if self._cross is not None:
            self._settle_sources(spare=1)
            self._runs.encode(slot, [[0]])
            lengths = np.ones(1, np.int64)
        self._settle(1, spare=1)
        self._runs.run(slot, [[0]], [0], arrays([], 1, self._candidates), lengths)

    def _room(self) -> int:
        """Tokens that a row has memory for, also for padding: what the longest text needs until its end."""
        return self._cache.room(max((row.longest for row in self.rows), default=0))

    def _run(
        self,
        kind: str,
        first: int,
        token_ids: list[list[int]],
        draws: Draws,
        fed: list[int],
        told: Told,
        further: MultiStep | None = None,
    ) -> Made:
        rows, steps = len(token_ids), max(map(len, token_ids))
        at = time.monotonic()
        members = self.rows[first : first + rows]
        self._settle(max([row.cached for row in members]) + steps)
        spare = self._runs.rows(rows) - rows if kind == "decode" and not first else 0
        members = self.rows[first : first + rows + spare]
        token_ids = [*token_ids, *[[0]] * spare]
        start = [row.cached for row in members]
        start += [0] * (rows + spare - len(start))
        lengths = np.array([len(row.source or ()) for row in members], np.int64) if self._cross is not None else None
        runs, seconds = list[Drawn](), list[float]()
        failure: Exception | None = None
        try:
            for drawn in self._drawn(first, token_ids, start, draws, lengths, further):
                runs.append(drawn)
                now = time.monotonic()
                seconds.append(now - at)
                at = now
        except Exception as error:  # onnxruntime's own classes share no other base
            failure = error
        if runs:
            _fill(members, fed, len(runs), sum(seconds))
        made: Made | None = None
        if runs:
            news = told(runs)
            new = sum(len(one.chosen) for one in news if one.sequence.scored_from is None)
            made = Made(kind, sum(map(bool, fed)), sum(fed), seconds, news, new)
        if failure is not None or made is None:
            taken = [first + row for row, count in enumerate(fed) if count]
            texts = [self.rows[slot] for slot in taken if self.rows[slot].finish is None]
            slots = [slot for slot in taken if self.rows[slot].finish is None]
            drafted, beside = kind == "decode" and steps > 1, len(slots) < len(taken)
            raise RunFailed(slots, texts, drafted=drafted, made=made, beside=beside) from failure
        return made

    def _drawn(
        self,
        first: int,
        token_ids: list[list[int]],
        start: list[int],
        draws: Draws,
        lengths: Array | None,
        further: MultiStep | None,
    ) -> Iterator[Drawn]:
        """What a run draws, and what those draw that follow it."""
        drawn = self._runs.run(first, token_ids, start, draws, lengths)
        return iter((drawn,)) if further is None else further.drawn(drawn, self._runs)

    def _settle(self, needed: int, spare: int = 0) -> None:
        used = [row.cached for row in self.rows] + [0] * spare
        self._cache.settle(max(needed, max(used) + 1), used)

    def _settle_sources(self, spare: int = 0) -> None:
        assert self._cross is not None
        used = [len(row.source or ()) if row.encoded else 0 for row in self.rows]
        self._cross.settle(max([1, *(len(row.source or ()) for row in self.rows)]), used + [0] * spare)

    def _remember_prompts(self, slots: list[int]) -> None:
        """Of texts in these slots, those that have just been read."""
        for slot in slots:
            if self.rows[slot].cached == len(self.rows[slot].prompt):
                self._remember(slot)

    def _remember(self, slot: int) -> None:
        """Keeps what a slot has for prompts that begin alike."""
        row = self.rows[slot]
        if self._prefixes is not None and row.scored_from is None:
            self._prefixes.keep(row.tokens_from(0, row.cached), slot)


def _fill(members: list[Sequence], fed: list[int], runs: int, seconds: float) -> None:
    """The texts of some runs have more in the cache than before."""
    rows = len(fed)
    for row, count in zip(members, fed, strict=False):
        if count:
            row.cached += count * runs
            row.compute_s += seconds
            row.largest_batch = rows if rows > row.largest_batch else row.largest_batch


def _draws_of(row: int, sequence: Sequence, count: int) -> Iterator[Draw]:
    """The tokens to choose after `count` more of a text were read."""
    if sequence.scored_from is None:
        if count == sequence.to_read:
            yield Draw(row, count - 1, sequence)
        return
    for step in range(before_scored(sequence), count):
        yield Draw(row, step, sequence, sequence.scored[sequence.cached + step + 1 - sequence.scored_from])
