"""CudaStorage: the memory of a cache on a GPU.

Copies are made on CUDA's default stream and waited for: ONNX Runtime has a stream of its own, and its runs begin after
them.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from services.kit.errors import StartupError
from services.kit.inference.bundle import Array
from services.kit.inference.recording import GPU
from services.language.storage import Stretch

LONGEST_PITCH = (1 << 31) - 1  # bytes between two lines of one copy


class CudaError(RuntimeError):
    """A call of CUDA's runtime failed; says which, and why."""


class Cuda:
    """CUDA's runtime on one device.

    Args:
        runtime: the module `cuda.bindings.runtime`.
    """

    def __init__(self, runtime: Any, device: int) -> None:
        self._runtime, self.device = runtime, device
        kinds = runtime.cudaMemcpyKind
        self.to_device, self.to_host = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
        self.on_device = kinds.cudaMemcpyDeviceToDevice

    @classmethod
    def open(cls, device: int) -> "Cuda":
        """Raises StartupError: its Python bindings are not installed."""
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise StartupError(
                f"texts on the GPU need the package cuda-bindings: {error}",
                hint="install requirements/gpu.lock, or set ENGINE__DEVICE=cpu",
            ) from error
        return cls(runtime, device)

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Calls a function of the runtime, for this device.

        Raises:
            CudaError: it failed.
        """
        with GPU.using():
            self._checked("cudaSetDevice", self.device)
            return self._checked(name, *arguments)

    def _checked(self, name: str, *arguments: Any) -> Any:
        code, *found = getattr(self._runtime, name)(*arguments)
        if int(code):
            raise CudaError(f"{name}: {code!r}")
        return found[0] if found else None


class CudaStorage:
    """In the memory of a GPU. Args: as they are in `memory.Blank`.

    Raises:
        CudaError: there is no memory for so much.
    """

    def __init__(self, cuda: Cuda, blocks: int, numbers: int, dtype: np.dtype[np.generic]) -> None:
        self.cuda, self._blocks = cuda, blocks
        self.device, self.dtype = ("cuda", cuda.device), dtype
        self.stride = numbers * dtype.itemsize
        self.nbytes = blocks * self.stride
        self.address = cuda("cudaMalloc", self.nbytes)
        weakref.finalize(self, cuda, "cudaFree", self.address).atexit = False  # the process takes its memory with it
        cuda("cudaMemset", self.address, 0, self.nbytes)

    def like(self, numbers: int) -> "CudaStorage":
        """See Storage."""
        return CudaStorage(self.cuda, self._blocks, numbers, self.dtype)

    def copy(self, source: "CudaStorage", stretches: Iterable[Stretch]) -> None:
        """See Storage."""
        for at, begin, count in stretches:
            if not count:
                continue
            if source is self and abs(at - begin) < count:
                aside = self.like(count)
                aside._issue(source, 0, begin, count)
                self._issue(aside, at, 0, count)
                self._wait()  # before its memory is somebody else's
            else:
                self._issue(source, at, begin, count)
        self._wait()

    def fill(self, values: Array) -> None:
        """See Storage."""
        values = np.ascontiguousarray(values, self.dtype)
        self.cuda("cudaMemcpy", self.address, values.ctypes.data, self.nbytes, self.cuda.to_device)
        self._wait()

    def array(self) -> Array:
        """See Storage."""
        values = np.empty((self._blocks, self.stride // self.dtype.itemsize), self.dtype)
        self.fetch(values)
        return values

    def fetch(self, values: Array) -> None:
        """Copies all of it to an array on the host, which is as large."""
        self.cuda("cudaMemcpy", values.ctypes.data, self.address, self.nbytes, self.cuda.to_host)

    def _issue(self, source: "CudaStorage", at: int, begin: int, count: int) -> None:
        """Copies a stretch of every block, later."""
        size, kind = self.dtype.itemsize, self.cuda.on_device
        to, from_ = self.address + at * size, source.address + begin * size
        if max(self.stride, source.stride) <= LONGEST_PITCH:
            pitches = (to, self.stride, from_, source.stride)
            self.cuda("cudaMemcpy2DAsync", *pitches, count * size, self._blocks, kind, 0)
            return
        for block in range(self._blocks):
            places = (to + block * self.stride, from_ + block * source.stride)
            self.cuda("cudaMemcpyAsync", *places, count * size, kind, 0)

    def _wait(self) -> None:
        self.cuda("cudaStreamSynchronize", 0)
