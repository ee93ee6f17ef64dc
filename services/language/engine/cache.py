"""Cache: keys and values of the tokens so far, of all layers, for the texts that are in work.

Row r belongs to slot r. The memory is reserved once; how many tokens a row has room for (`size`) changes with the
longest text, since a run costs what the room is and not what is filled. What a row gives does not depend on `size`, nor
on what the unfilled part of it holds.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from services.kit.inference.bundle import Array
from services.kit.inference.engine import BFLOAT16
from services.language import graph
from services.language.engine.storage import HostStorage, Storage, Stretch


class Kind(NamedTuple):
    """How numbers of one precision lie in memory."""

    dtype: np.dtype[np.generic]
    element: type[np.generic] | int  # as ONNX Runtime is told


KINDS = {
    "FP32": Kind(np.dtype(np.float32), np.float32),
    "FP16": Kind(np.dtype(np.float16), np.float16),
    "BF16": Kind(np.dtype(np.uint16), BFLOAT16),  # its bits
}

# Makes the memory: blocks, numbers of each, and their dtype.
Blank = Callable[[int, int, np.dtype[np.generic]], Storage]


class Cache:
    """Blocks laid out [rows, heads, size, width], one after the other for each layer's keys and values.

    Args:
        blocks: two for each layer.
        heads, width: of one token's keys or values in one block.
        capacity: tokens of all rows together that memory is reserved for.
        longest: tokens of the longest row, which may have room for some more (`graph.room`).
        precision: FP32, FP16 or BF16.
        smallest: room that a row has at least; with graphs that need whole rooms, one.
        blank: where its memory comes from.
    """

    def __init__(
        self,
        blocks: int,
        heads: int,
        width: int,
        capacity: int,
        longest: int,
        precision: str,
        smallest: int = 64,
        blank: Blank = HostStorage,
    ) -> None:
        self._heads, self._width, self._longest = heads, width, graph.room(longest)
        self._capacity, self._smallest = max(capacity, self._longest), min(smallest, self._longest)
        self._kind = KINDS[precision]
        self._blocks = blocks
        self.storage = blank(blocks, self._capacity * heads * width, self._kind.dtype)
        self.size = self._smallest

    @staticmethod
    def token_bytes(blocks: int, heads: int, width: int, precision: str) -> int:
        """Memory of one token."""
        return blocks * heads * width * KINDS[precision].dtype.itemsize

    def room(self, tokens: int) -> int:
        """The smallest size that has room for so many tokens."""
        size = self._smallest
        while size < tokens:
            size *= 2
        return min(size, self._longest)

    @property
    def rooms(self) -> list[int]:
        """The sizes that there are."""
        sizes = [self._smallest]
        while sizes[-1] < self._longest:
            sizes.append(self.room(sizes[-1] + 1))
        return sizes

    def rows(self, tokens: int) -> int:
        """How many rows there is memory for, if the longest of them has so many tokens; at least one."""
        return self._capacity // self.room(tokens)

    @property
    def capacity(self) -> int:
        """Tokens that memory is reserved for."""
        return self._capacity

    def settle(self, needed: int, used: Sequence[int]) -> None:
        """Makes the size fit: at once when it is too small or the rows have no memory for it, else late.

        Args:
            needed: tokens of the longest row after the next run.
            used: tokens that each row has now; there is memory for so many rows.
        """
        size = self.room(needed)
        if size > self.size:
            self._relay(used, size, reversed(range(len(used) * self._heads)))
        elif size * 4 <= self.size or (size < self.size and len(used) * self.size > self._capacity):
            self._relay(used, size, range(len(used) * self._heads))

    def empty(self, needed: int) -> None:
        """Nothing in it counts any more, and the longest row will have so many tokens."""
        self.size = self.room(needed)

    def move(self, source: int, target: int, used: int) -> None:
        """Copies the first `used` tokens of one row to another one."""
        self.take(target, 0, self, source, 0, used)

    def take(self, row: int, begin: int, other: "Cache", other_row: int, other_begin: int, tokens: int) -> None:
        """Copies so many tokens from a place of a row of another cache, of as many heads of the same width."""
        target, source = self._at(row, begin), other._at(other_row, other_begin)
        steps = self.size * self._width, other.size * self._width
        self.storage.copy(other.storage, [Stretch(target, source, tokens * self._width, self._heads, *steps)])

    def clear(self, row: int, rows: int = 1) -> None:
        """Zeros: what was in a row is no number any more, and would be none of the next text's either."""
        self.storage.clear(self._at(row), rows * self._heads * self.size * self._width)

    def read(self, row: int, begin: int, end: int) -> Array:
        """Keys and values of some tokens, on the host: [blocks, heads, end - begin, width]."""
        tokens = end - begin
        piece, step = self.storage.like(self._heads * tokens * self._width), tokens * self._width
        heads = Stretch(0, self._at(row, begin), step, self._heads, step, self.size * self._width)
        piece.copy(self.storage, [heads])
        return piece.array().reshape(self._blocks, self._heads, tokens, self._width)

    def write(self, row: int, begin: int, values: Array) -> None:
        """Puts in such values."""
        piece, step = self.storage.like(values[0].size), values.shape[2] * self._width
        piece.fill(values.reshape(self._blocks, -1))
        heads = Stretch(self._at(row, begin), 0, step, self._heads, self.size * self._width, step)
        self.storage.copy(piece, [heads])

    def addresses(self, row: int) -> list[int]:
        """Where a row begins in each block."""
        begin = self.storage.address + self._at(row) * self._kind.dtype.itemsize
        return [begin + block * self.storage.stride for block in range(self._blocks)]

    def shape(self, rows: int) -> tuple[int, int, int, int]:
        """Of so many rows of one block."""
        return (rows, self._heads, self.size, self._width)

    @property
    def element(self) -> type[np.generic] | int:
        """The type of what is kept, as ONNX Runtime is told."""
        return self._kind.element

    def _at(self, row: int, token: int = 0) -> int:
        """The number of a block that a row, or the first head of a token of it, begins with."""
        return (row * self._heads * self.size + token) * self._width

    def _relay(self, used: Sequence[int], size: int, heads: Iterable[int]) -> None:
        """Moves rows to where they lie when each has room for `size`; heads in an order that overwrites none."""
        here, there = self.size * self._width, size * self._width
        self.storage.copy(
            self.storage, (Stretch(at * there, at * here, used[at // self._heads] * self._width) for at in heads)
        )
        self.size = size
