"""Prefixes: keys and values of beginnings that were computed before, so that a prompt that begins alike is quicker.

Kept in blocks of tokens, each under the block before it and its own tokens, as vLLM does. What is taken from here is
equal to the bit to what a run would compute.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

BLOCK = 16  # tokens
ROOT = 0
_Key = tuple[int, tuple[int, ...]]  # number of the block before, and the tokens


class Piece(Protocol):
    """Keys and values of one block."""

    @property
    def nbytes(self) -> int:
        """What it takes."""


P = TypeVar("P", bound=Piece)


@dataclass(frozen=True, slots=True)
class _Block(Generic[P]):
    number: int
    values: P


class Prefixes(Generic[P]):
    """The blocks used last, in bounded memory; for one thread.

    Args:
        most_bytes: of keys and values; 0 keeps none.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._blocks: OrderedDict[_Key, _Block[P]] = OrderedDict()
        self._numbers = ROOT
        self.bytes = 0

    def longest(self, tokens: Sequence[int]) -> list[P]:
        """The blocks that the beginning of `tokens` has here; at least one token is left to compute."""
        found: list[P] = []
        path: list[_Key] = []
        before = ROOT
        for key in _keys(tokens[:-1]):
            block = self._blocks.get((before, key))
            if block is None:
                break
            path.append((before, key))
            found.append(block.values)
            before = block.number
        self._used(path)
        return found

    def keep(self, tokens: Sequence[int], kept: Callable[[int, int], P]) -> None:
        """Keeps what is not here yet.

        Args:
            kept: keys and values of the tokens in [begin, end), a copy.
        """
        if not self._most_bytes:
            return
        before, path = ROOT, list[_Key]()
        for index, key in enumerate(_keys(tokens)):
            block = self._blocks.get((before, key))
            if block is None:
                self._numbers += 1
                block = _Block(self._numbers, kept(index * BLOCK, (index + 1) * BLOCK))
                self._blocks[before, key] = block
                self.bytes += block.values.nbytes
            path.append((before, key))
            before = block.number
        self._used(path)
        while self.bytes > self._most_bytes:
            _, old = self._blocks.popitem(last=False)
            self.bytes -= old.values.nbytes

    def _used(self, path: list[_Key]) -> None:
        """Just now; a block after those before it, which are worth more: without them nobody finds it."""
        for key in reversed(path):
            self._blocks.move_to_end(key)


def _keys(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(tokens[at : at + BLOCK]) for at in range(0, len(tokens) - BLOCK + 1, BLOCK)]
