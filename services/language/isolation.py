"""Isolation: a run that fails is made again in halves, until the texts that no run can take are alone.

A run that fails changes nothing: what its texts had in the cache is as it was, and their draws are those of their
places. So whoever is run again gets the bits that it would have had.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.language.sequence import Chosen, Finish, Sequence


@dataclass(slots=True)
class News:
    """What a run made of one text."""

    sequence: Sequence
    index: int  # of the first token
    chosen: list[Chosen]
    text: str | None = ""  # None: it is still to be made of them
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """One run that was made."""

    kind: str  # "encode", "prefill" or "decode"
    rows: int  # that took tokens
    tokens: int  # that they took
    seconds: float
    news: list[News]


class RunFailed(Exception):
    """The engine raised; its error is the cause.

    Args:
        slots: of the texts that were to take tokens.
        texts: those texts.
    """

    def __init__(self, slots: list[int], texts: list[Sequence]) -> None:
        super().__init__(f"a run of {len(slots)} texts failed")
        self.slots, self.texts = slots, texts


class Run(Protocol):
    """One kind of run."""

    def __call__(self, slots: list[int] | None = None) -> Made | None:
        """For the texts in these slots, or for all that it is for; None if there is none.

        Raises:
            RunFailed
        """


def isolated(
    run: Run, failed: Callable[[RunFailed], None], slots: list[int] | None = None
) -> tuple[list[Made], list[Sequence]]:
    """The runs that were made, and the texts that no run can take; all of them keep their slots.

    Args:
        failed: told of each run that failed.
    """
    try:
        made = run(slots)
    except RunFailed as failure:
        failed(failure)
        if len(failure.slots) == 1:
            return [], failure.texts
        half = len(failure.slots) // 2
        runs, lost = isolated(run, failed, failure.slots[:half])
        more_runs, more_lost = isolated(run, failed, failure.slots[half:])
        return runs + more_runs, lost + more_lost
    return [] if made is None else [made], []
