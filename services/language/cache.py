"""Cache: keys and values of the tokens so far, of all layers, for the texts that are in work.

Row r belongs to slot r. The memory is reserved once; how many tokens a row has room for (`size`) changes with the
longest text, since a run costs what the room is and not what is filled. What a row gives does not depend on `size`, nor
on what the unfilled part of it holds.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from services.kit.inference.bundle import Array


class Cache:
    """Blocks laid out [rows, heads, size, width], one after the other for each layer's keys and values.

    Args:
        blocks: two for each layer.
        heads, width: of one token's keys or values in one block.
        capacity: tokens of all rows together that memory is reserved for.
        longest: tokens of the longest row.
        smallest: room that a row has at least.
    """

    def __init__(
        self, blocks: int, heads: int, width: int, capacity: int, longest: int, dtype: str, smallest: int = 64
    ) -> None:
        self._heads, self._width, self._longest = heads, width, longest
        self._capacity, self._smallest = max(capacity, longest), min(smallest, longest)
        self._memory: Array = np.zeros((blocks, self._capacity * heads * width), dtype)
        self._address = self._memory.ctypes.data
        self.size = self._smallest

    @staticmethod
    def token_bytes(blocks: int, heads: int, width: int, itemsize: int) -> int:
        """Memory of one token."""
        return blocks * heads * width * itemsize

    def room(self, tokens: int) -> int:
        """The smallest size that has room for so many tokens."""
        size = self._smallest
        while size < tokens:
            size *= 2
        return min(size, self._longest)

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
            for row in reversed(range(len(used))):
                self._relay(row, used[row], size, reversed(range(self._heads)))
            self.size = size
        elif size * 4 <= self.size or (size < self.size and len(used) * self.size > self._capacity):
            for row in range(len(used)):
                self._relay(row, used[row], size, range(self._heads))
            self.size = size

    def empty(self, needed: int) -> None:
        """Nothing in it counts any more, and the longest row will have so many tokens."""
        self.size = self.room(needed)

    def move(self, source: int, target: int, used: int) -> None:
        """Copies the first `used` tokens of one row to another one."""
        for block in self._blocks(max(source, target) + 1):
            block[target, :, :used] = block[source, :, :used]

    def view(self, row: int, begin: int, end: int) -> Array:
        """Keys and values of some tokens: [blocks, heads, end - begin, width]."""
        return self._blocks(row + 1)[:, row, :, begin:end]

    def read(self, row: int, begin: int, end: int) -> Array:
        """The same, a copy."""
        return self.view(row, begin, end).copy()

    def write(self, row: int, begin: int, values: Array) -> None:
        """Puts in what `read` gave, at another place or of another text."""
        self._blocks(row + 1)[:, row, :, begin : begin + values.shape[2]] = values

    def addresses(self, row: int) -> list[int]:
        """Where a row begins in each block."""
        stride, itemsize = self._memory.strides
        begin = self._address + row * self._heads * self.size * self._width * itemsize
        return [begin + block * stride for block in range(len(self._memory))]

    def shape(self, rows: int) -> tuple[int, int, int, int]:
        """Of so many rows of one block."""
        return (rows, self._heads, self.size, self._width)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of what is kept."""
        return self._memory.dtype

    def _blocks(self, rows: int) -> Array:
        """The rows up to there: [blocks, rows, heads, size, width]."""
        shape = self.shape(rows)
        return self._memory[:, : math.prod(shape)].reshape(-1, *shape)

    def _relay(self, row: int, used: int, size: int, heads: Iterable[int]) -> None:
        """Moves a row to where it lies when rows have room for `size`; heads in an order that overwrites none."""
        for head in heads:
            at = row * self._heads + head
            source, target, count = at * self.size * self._width, at * size * self._width, used * self._width
            for memory in self._memory:
                memory[target : target + count] = memory[source : source + count]
