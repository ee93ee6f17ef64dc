"""Prefixes: keys and values of beginnings that were computed before, so that a prompt that begins alike is quicker.

Kept in blocks of tokens, each under the block before it and its own tokens, as vLLM does. What is taken from here is
equal to the bit to what a run would compute.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from services.language.engine.cache import Cache

BLOCK = 16  # tokens
ROOT = 0
_Key = tuple[int, tuple[int, ...]]  # number of the block before, and the tokens


class _Block(NamedTuple):
    number: int
    row: int  # of the cache that it is kept in


class Prefixes:
    """The blocks used last, in memory that is reserved; for one thread.

    Args:
        texts: where beginnings come from and go to.
        kept: a row for each block.
    """

    def __init__(self, texts: Cache, kept: Cache) -> None:
        self._texts, self._kept = texts, kept
        self._free = list(range(kept.rows(BLOCK)))
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._numbers = ROOT

    def longest(self, tokens: Sequence[int]) -> list[int]:
        """Where the blocks are that `tokens` begins with; at least one token is left to compute."""
        found: list[int] = []
        path: list[_Key] = []
        before = ROOT
        for key in _keys(tokens[:-1]):
            block = self._blocks.get((before, key))
            if block is None:
                break
            path.append((before, key))
            found.append(block.row)
            before = block.number
        self._used(path)
        return found

    def put(self, slot: int, blocks: Sequence[int]) -> None:
        """Begins the text in a slot with these blocks."""
        for index, row in enumerate(blocks):
            self._texts.take(slot, index * BLOCK, self._kept, row, 0, BLOCK)

    def keep(self, tokens: Sequence[int], slot: int) -> None:
        """Keeps what is not here yet of a text in a slot; of what was used longest ago, as much goes."""
        before, path = ROOT, list[_Key]()
        for index, key in enumerate(_keys(tokens)):
            block = self._blocks.get((before, key))
            if block is None:
                row = self._row(path)
                if row is None:
                    break
                self._kept.take(row, 0, self._texts, slot, index * BLOCK, BLOCK)
                self._numbers += 1
                block = self._blocks[before, key] = _Block(self._numbers, row)
            path.append((before, key))
            self._blocks.move_to_end((before, key))
            before = block.number
        self._used(path)

    def _row(self, path: list[_Key]) -> int | None:
        """Memory for one more block, which none of the path loses its own for."""
        if self._free:
            return self._free.pop()
        oldest = next(iter(self._blocks))
        return None if oldest in path else self._blocks.pop(oldest).row

    def _used(self, path: list[_Key]) -> None:
        """Just now; a block after those before it, which are worth more: without them nobody finds it."""
        for key in reversed(path):
            self._blocks.move_to_end(key)


def _keys(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(tokens[at : at + BLOCK]) for at in range(0, len(tokens) - BLOCK + 1, BLOCK)]
