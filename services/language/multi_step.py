"""MultiStep: runs of the same texts in a row, each with the tokens that the one before it drew.

A run pushes what the thread needs between two of them out of the processor's caches, so that looking at the tokens of
several costs hardly more than looking at those of one. Nothing is computed that would not be with a look at each: the
row ends with the first token that may end a text.
"""

from collections.abc import Callable, Iterator

from services.language.engine.drawn import Drawn
from services.language.sequence import Sequence


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

    def drawn(self, drawn: Drawn, again: Callable[[list[float]], Drawn]) -> Iterator[Drawn]:
        """What all runs draw.

        Args:
            drawn: by the first one.
            again: makes the next one, with the draws of the texts, in [0, 1); none where nothing is drawn.

        Raises whatever `again` raises.
        """
        made = 1
        while made < self._most and self._goes_on() and self._ends.isdisjoint(drawn.tokens):
            yield drawn.kept() if self._tells else drawn
            drawn = again([] if self._greedy else [text.draw(made) for text in self._texts])
            made += 1
        yield drawn
