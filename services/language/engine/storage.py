"""Storage: the memory of a cache, on the host or on a GPU; each block of it is one stretch of numbers."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol, Self

import numpy as np

from services.kit.inference.bundle import Array

BYTES = np.dtype(np.uint8)


class Stretch(NamedTuple):
    """What is copied in every block: so many numbers, once or several times at distances of their own."""

    target: int  # number of the block that the first of them go to
    source: int  # and that they come from
    length: int
    times: int = 1
    target_step: int = 0
    source_step: int = 0


class Storage(Protocol):
    """[blocks, numbers] of one dtype, zeros at first."""

    device: tuple[str, int]  # as ONNX Runtime names it
    dtype: np.dtype[np.generic]
    address: int  # of the first block
    stride: int  # bytes from one block to the next
    nbytes: int

    def like(self, numbers: int) -> Self:
        """Another one of so many numbers a block, in the same memory; whatever is in it."""

    def copy(self, source: Self, stretches: Iterable[Stretch]) -> None:
        """Copies, one stretch after the other; one that is copied once may overlap with itself."""

    def clear(self, at: int, length: int) -> None:
        """Zeros for so many numbers of every block."""

    def fill(self, values: Array) -> None:
        """Copies all of it from the host: [blocks, numbers]."""

    def array(self) -> Array:
        """All of it, a copy on the host."""

    def close(self) -> None:
        """Gives back what memory of a GPU it has; it is not used after that."""


class HostStorage:
    """In the memory of the process. Args: as they are in `cache.Blank`."""

    device = ("cpu", 0)

    def __init__(self, blocks: int, numbers: int, dtype: np.dtype[np.generic]) -> None:
        self._take(np.zeros((blocks, numbers), dtype))

    def like(self, numbers: int) -> "HostStorage":
        """See Storage."""
        other = HostStorage.__new__(HostStorage)
        other._take(np.empty((len(self._memory), numbers), self.dtype))
        return other

    def copy(self, source: "HostStorage", stretches: Iterable[Stretch]) -> None:
        """See Storage."""
        count = len(self._memory)
        # Within itself a block at a time: of all at once numpy cannot tell whether they overlap, and copies them twice.
        parts = [(block, 1) for block in range(count)] if source is self else [(0, count)]
        for target, begin, length, times, step, source_step in stretches:
            for blocks in parts if length else ():
                lines = self._lines(blocks, target, step, times, length)
                lines[:] = source._lines(blocks, begin, source_step, times, length)

    def clear(self, at: int, length: int) -> None:
        """See Storage."""
        self._memory[:, at : at + length] = 0

    def fill(self, values: Array) -> None:
        """See Storage."""
        self._memory[:] = values

    def array(self) -> Array:
        """See Storage."""
        return self._memory.copy()

    def close(self) -> None:
        """See Storage."""

    def _take(self, memory: Array) -> None:
        self._memory = memory
        self.dtype, self.nbytes = memory.dtype, memory.nbytes
        self.address, self.stride = memory.ctypes.data, memory.strides[0]

    def _lines(self, blocks: tuple[int, int], at: int, step: int, times: int, length: int) -> Array:
        """[blocks, times, length] of so many blocks from one on, a view."""
        first, count = blocks
        size, begin = self.dtype.itemsize, first * self.stride
        shape, strides = (count, times, length), (self.stride, step * size, size)
        return np.ndarray(shape, self.dtype, self._memory, begin + at * size, strides)
