"""MultiStep: runs of the same texts in a row, each with the tokens that the one before it drew.

A run pushes what the thread needs between two of them out of the processor's caches, so that looking at the tokens of
several costs hardly more than looking at those of one. The row ends with the first token that may end a text. Nothing
is computed that would not be with a look at each; but on a GPU, where a run begins while the one before it is under
way, one more follows such a token.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from typing import Protocol

from services.language.engine.drawn import Drawn
from services.language.sequence import Sequence


class Repeated(Protocol):
    """The last run, which can be made again with the tokens that it drew."""

    @property
    def ahead(self) -> int:
        """How many runs may have begun that have not been looked at."""

    def begin(self, uniform: Several[float] = ()) -> None:
        """Makes it again, with the draws of the texts, in [0, 1); none where nothing is drawn."""

    def ended(self) -> Drawn:
        """What the first of them drew that have not been looked at."""


class MultiStep:
    """Args:
    texts: all in work, whose places in the run are their places here.
    most: runs at most.
    goes_on: asked after each run.
    """

    def __init__(self, texts: list[Sequence], most: int, goes_on: Callable[[], bool]) -> None:
        self._texts = texts
        self._most, self._goes_on = most, goes_on
        self._ends: frozenset[int] = frozenset().union(*(text.end for text in texts))
        self._greedy = all(text.sampling.greedy for text in texts)
        self._tells = any(text.sampling.alternatives for text in texts)

    def drawn(self, drawn: Drawn, runs: Repeated) -> Iterator[Drawn]:
        """What all runs draw, the first of which drew `drawn`. Raises whatever `runs` raises."""
        begun, looked_at, goes_on = 1, 1, True
        while True:
            goes_on = goes_on and begun < self._most and self._goes_on() and self._ends.isdisjoint(drawn.tokens)
            last = not goes_on and looked_at == begun  # what has begun is looked at, though it may be one too many
            yield drawn.kept() if self._tells and not last else drawn
            if last:
                return
            if goes_on:
                for following in range(begun, min(self._most, looked_at + runs.ahead)):
                    runs.begin([] if self._greedy else [text.draw(following) for text in self._texts])
                    begun += 1
            drawn = runs.ended()
            looked_at += 1
