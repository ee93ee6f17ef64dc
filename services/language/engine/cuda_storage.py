"""CudaStorage: the memory of a cache on a GPU."""

import weakref
from collections.abc import Iterable

import numpy as np

from services.kit.inference.bundle import Array
from services.language.engine.cuda import Cuda
from services.language.engine.storage import Stretch

LONGEST_PITCH = (1 << 31) - 1  # bytes between two lines of one call


class CudaStorage:
    """In the memory of a GPU; what is copied there is so on the stream of its model.

    Args: as they are in `cache.Blank`.

    Raises:
        CudaError: there is no memory for so much.
    """

    def __init__(self, cuda: Cuda, blocks: int, numbers: int, dtype: np.dtype[np.generic]) -> None:
        self._reserve(cuda, blocks, numbers, dtype)
        cuda("cudaMemsetAsync", self.address, 0, self.nbytes, cuda.stream)

    def like(self, numbers: int) -> "CudaStorage":
        """See Storage."""
        other = CudaStorage.__new__(CudaStorage)
        other._reserve(self.cuda, self._blocks, numbers, self.dtype)
        return other

    def copy(self, source: "CudaStorage", stretches: Iterable[Stretch]) -> None:
        """See Storage."""
        for one in stretches:
            for time in range(one.times):
                at, begin = one.target + time * one.target_step, one.source + time * one.source_step
                apart = abs(at - begin) if source is self else one.length
                if apart:
                    # CUDA's copies may not overlap: parts as long as they are apart do not, in the right order.
                    parts = range(0, one.length, apart)
                    for part in reversed(parts) if at > begin else parts:
                        self._copy(source, at + part, begin + part, min(apart, one.length - part))

    def clear(self, at: int, length: int) -> None:
        """See Storage."""
        size, cuda = self.dtype.itemsize, self.cuda
        if self.stride <= LONGEST_PITCH:
            given = self.address + at * size, self.stride, 0, length * size, self._blocks
            cuda("cudaMemset2DAsync", *given, cuda.stream)
            return
        for block in range(self._blocks):
            address = self.address + block * self.stride + at * size
            cuda("cudaMemsetAsync", address, 0, length * size, cuda.stream)

    def fill(self, values: Array) -> None:
        """See Storage."""
        values = np.ascontiguousarray(values, self.dtype)
        self.cuda.copy(self.address, values.ctypes.data, self.nbytes, self.cuda.to_device)
        self.cuda.wait()

    def array(self) -> Array:
        """See Storage."""
        values = np.empty((self._blocks, self.stride // self.dtype.itemsize), self.dtype)
        self.cuda.copy(values.ctypes.data, self.address, self.nbytes, self.cuda.to_host)
        self.cuda.wait()
        return values

    def close(self) -> None:
        """See Storage."""
        self._free()

    def _reserve(self, cuda: Cuda, blocks: int, numbers: int, dtype: np.dtype[np.generic]) -> None:
        self.cuda, self._blocks = cuda, blocks
        self.device, self.dtype = ("cuda", cuda.device), dtype
        self.stride = numbers * dtype.itemsize
        self.nbytes = blocks * self.stride
        self.address: int = cuda("cudaMalloc", self.nbytes)
        self._free = weakref.finalize(self, cuda.free, "cudaFree", self.address)
        self._free.atexit = False  # the process takes its memory with it

    def _copy(self, source: "CudaStorage", at: int, begin: int, count: int) -> None:
        """A stretch of every block."""
        size, kind, cuda = self.dtype.itemsize, self.cuda.on_device, self.cuda
        to, from_ = self.address + at * size, source.address + begin * size
        if max(self.stride, source.stride) <= LONGEST_PITCH:
            pitches = (to, self.stride, from_, source.stride)
            cuda("cudaMemcpy2DAsync", *pitches, count * size, self._blocks, kind, cuda.stream)
            return
        for block in range(self._blocks):
            cuda.copy(to + block * self.stride, from_ + block * source.stride, count * size, kind)
