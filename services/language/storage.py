"""Storage: the memory of a cache, on the host or on a GPU; each block of it is one stretch of numbers."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol, Self

import numpy as np

from services.kit.inference.bundle import Array

BYTES = np.dtype(np.uint8)


class Stretch(NamedTuple):
    """What is copied in every block."""

    target: int  # number of the block that it goes to
    source: int  # and that it comes from
    length: int  # numbers


class Storage(Protocol):
    """[blocks, numbers] of one dtype, zeros at first."""

    device: tuple[str, int]  # as ONNX Runtime names it
    dtype: np.dtype[np.generic]
    address: int  # of the first block
    stride: int  # bytes from one block to the next
    nbytes: int

    def like(self, numbers: int) -> Self:
        """Another one of so many numbers a block, in the same memory."""

    def copy(self, source: Self, stretches: Iterable[Stretch]) -> None:
        """Copies, one stretch after the other; a source that is this one may overlap with its target."""

    def fill(self, values: Array) -> None:
        """Copies all of it from the host: [blocks, numbers]."""

    def array(self) -> Array:
        """All of it, a copy on the host."""


class HostStorage:
    """In the memory of the process. Args: as they are in `cache.Blank`."""

    device = ("cpu", 0)

    def __init__(self, blocks: int, numbers: int, dtype: np.dtype[np.generic]) -> None:
        self.memory: Array = np.zeros((blocks, numbers), dtype)
        self.dtype, self.nbytes = self.memory.dtype, self.memory.nbytes
        self.address, self.stride = self.memory.ctypes.data, self.memory.strides[0]

    def like(self, numbers: int) -> "HostStorage":
        """See Storage."""
        return HostStorage(len(self.memory), numbers, self.dtype)

    def copy(self, source: "HostStorage", stretches: Iterable[Stretch]) -> None:
        """See Storage."""
        for at, begin, count in stretches:
            self.memory[:, at : at + count] = source.memory[:, begin : begin + count]

    def fill(self, values: Array) -> None:
        """See Storage."""
        self.memory[:] = values

    def array(self) -> Array:
        """See Storage."""
        return self.memory.copy()
