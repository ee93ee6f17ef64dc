"""Isolation: a run that fails is made again as smaller ones, until the texts that no run can take are alone.

A run that fails changes nothing: what its texts had in the cache is as it was, and their draws are those of their
places. So whoever is run again gets the bits that it would have had.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from services.language.sequence import Chosen, Finish, Sequence

AGAIN = 256  # runs that go well before larger ones are tried again


@dataclass(slots=True)
class News:
    """What a run made of one text."""

    sequence: Sequence
    index: int  # of the first token
    chosen: list[Chosen]
    text: str | None  # None: it is still to be made of them
    finish: Finish | None = None

    def take_in(self, later: "News") -> bool:
        """What a later run made joins it; False where the text is known of one of them alone."""
        if (self.text is None) != (later.text is None):
            return False
        self.chosen += later.chosen
        self.text = None if self.text is None or later.text is None else self.text + later.text
        self.finish = later.finish
        return True


@dataclass(frozen=True, slots=True)
class Made:
    """One run that was made, or several in a row that differ in their tokens only."""

    kind: str  # "encode", "prefill" or "decode"
    rows: int  # that took tokens
    tokens: int  # that they took, in each
    seconds: list[float]  # of each
    news: list[News] = field(default_factory=list)
    made: int = 0  # new tokens of all of them


class RunFailed(Exception):
    """The engine raised; its error is the cause.

    Args:
        slots: of the texts that were to take tokens, and have not ended.
        texts: those texts.
        drafted: whether it took tokens besides that were only drafted; none are where slots are named.
        made: the runs before it in a row; there is none where slots are named.
        beside: whether it was for others, too, that those have ended.
    """

    def __init__(
        self,
        slots: list[int],
        texts: list[Sequence],
        *,
        drafted: bool = False,
        made: Made | None = None,
        beside: bool = False,
    ) -> None:
        super().__init__(f"a run of {len(slots)} texts failed")
        self.slots, self.texts, self.drafted, self.made, self.beside = slots, texts, drafted, made, beside


class Run(Protocol):
    """One kind of run."""

    def __call__(self, slots: list[int] | None = None) -> Made | None:
        """For the texts in these slots, or for all that it is for; None if there is none.

        Raises:
            RunFailed
        """


class Batch(Protocol):
    """Texts in slots, and the runs that take them on."""

    rows: list[Sequence]

    @property
    def writing(self) -> list[int]:
        """The slots of those that take one token in the next run."""

    def encode(self, slots: list[int] | None = None) -> Made | None:
        """Reads sources. This and the others are a Run."""

    def prefill(self, budget: int, slots: list[int] | None = None) -> Made | None:
        """Reads at most so many tokens of prompts."""

    def decode(self, slots: list[int] | None = None, goes_on: Callable[[], bool] = lambda: False) -> Made | None:
        """Takes texts one token further, or some; further ones while `goes_on` says so, where no slots are named."""


# The runs that were made, and the texts that no run can take; all of them keep their slots.
Outcome = tuple[list[Made], list[Sequence]]


class Limit:
    """How much goes into one run: all there is, or less after the engine has failed with more and not with that.

    An engine that lacks memory for so much is not asked for it every time. It doubles after AGAIN runs that went well.
    """

    def __init__(self) -> None:
        self._most = math.inf
        self._well = 0

    def within(self, wanted: int) -> int:
        """As much of it as one run may have; at least 1."""
        return int(min(wanted, self._most))

    def failed(self, size: int) -> None:
        """A run of so much has failed, and smaller ones have not."""
        self._most, self._well = max(1, size // 2), 0

    def went_well(self) -> None:
        """A run has not failed."""
        self._well += 1
        if self._well >= AGAIN:
            self._most, self._well = 2 * self._most, 0


class Isolation:
    """The runs of one batch.

    Args:
        failed: told of each run that failed.
    """

    def __init__(self, batch: Batch, failed: Callable[[RunFailed], None]) -> None:
        self._batch, self._told = batch, failed
        self._reads, self._writes = Limit(), Limit()  # tokens of prompts, and texts
        self._failures = 0

    def encode(self) -> Outcome:
        """Reads the sources of those that have joined."""
        return self._isolated(self._batch.encode)

    def prefill(self, budget: int) -> Outcome:
        """Reads at most so many tokens of prompts. A text with which a run fails is read in smaller pieces."""
        budget, before = self._reads.within(budget), self._failures
        runs, lost = self._isolated(partial(self._batch.prefill, budget))
        self._learn(self._reads, budget, before, runs, lost)
        for text in tuple(lost):
            made = self._in_smaller_pieces(text, budget)
            if made is not None:
                runs.append(made)
                lost.remove(text)
        return runs, lost

    def decode(self, goes_on: Callable[[], bool]) -> Outcome:
        """Takes every other text one token further, or several, while `goes_on` says so."""
        rows, before = len(self._batch.rows), self._failures
        most = self._writes.within(rows)
        if most >= rows:
            runs, lost = self._isolated(partial(self._batch.decode, goes_on=goes_on))
        else:
            runs, lost = [], []
            writing = self._batch.writing
            for at in range(0, len(writing), most):
                more_runs, more_lost = self._isolated(self._batch.decode, writing[at : at + most])
                runs, lost = runs + more_runs, lost + more_lost
        self._learn(self._writes, most, before, runs, lost)
        return runs, lost

    def _isolated(self, run: Run, slots: list[int] | None = None) -> Outcome:
        try:
            made = run(slots)
        except RunFailed as failure:
            self._told(failure)
            if failure.drafted:  # says nothing of the texts
                return self._isolated(run, failure.slots)
            self._failures += 1
            before = [] if failure.made is None else [failure.made]
            if failure.beside:
                runs, lost = self._isolated(run, failure.slots) if failure.slots else ([], [])
                return before + runs, lost
            if len(failure.slots) == 1:
                return before, failure.texts
            half = len(failure.slots) // 2
            runs, lost = self._isolated(run, failure.slots[:half])
            more_runs, more_lost = self._isolated(run, failure.slots[half:])
            return before + runs + more_runs, lost + more_lost
        return [] if made is None else [made], []

    def _in_smaller_pieces(self, text: Sequence, budget: int) -> Made | None:
        """The run of a piece of its prompt that the engine takes; None if it does not take one token."""
        piece = min(budget, text.to_read)
        while piece > 1:
            piece //= 2
            runs, _ = self._isolated(partial(self._batch.prefill, piece), [self._batch.rows.index(text)])
            if runs:
                self._reads.failed(2 * piece)
                return runs[0]
        return None

    def _learn(self, limit: Limit, size: int, failures: int, runs: list[Made], lost: list[Sequence]) -> None:
        """What these runs say of the size of others; where texts were lost, it is those that were wrong."""
        if self._failures == failures and runs:
            limit.went_well()
        elif self._failures > failures and runs and not lost:
            limit.failed(size)
