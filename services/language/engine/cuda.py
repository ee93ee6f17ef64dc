"""Cuda: CUDA's runtime for one model: its stream, which its runs and copies follow one another on, and its memory."""

import contextlib
import ctypes
import threading
import weakref
from typing import Any

import numpy as np

from services.kit.errors import StartupError
from services.kit.inference.bundle import Array
from services.kit.inference.recording import GPU


class CudaError(RuntimeError):
    """A call of CUDA's runtime failed; says which, and why."""


class Cuda:
    """Args:
    runtime: the module `cuda.bindings.runtime`.
    device: number of the GPU.

    Raises:
        CudaError: there is none of this number.
    """

    def __init__(self, runtime: Any, device: int) -> None:
        self._runtime, self.device = runtime, device
        self._threads = threading.local()
        kinds = runtime.cudaMemcpyKind
        self.to_device, self.to_host = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
        self.on_device = kinds.cudaMemcpyDeviceToDevice
        self.stream = int(self("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking))

    @classmethod
    def open(cls, device: int) -> "Cuda":
        """Raises StartupError: its Python bindings are not installed, or there is no such GPU for them."""
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise StartupError(
                f"texts on the GPU need the package cuda-bindings: {error}",
                hint="install requirements/gpu.lock, or set ENGINE__DEVICE=cpu",
            ) from error
        try:
            return cls(runtime, device)
        except CudaError as error:
            raise StartupError(
                f"texts cannot be written on GPU {device}: {error}",
                hint="ENGINE__CUDA_DEVICE must name a GPU, and its driver know CUDA 13; or set ENGINE__DEVICE=cpu",
            ) from error

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Calls a function of the runtime, for this device.

        Raises:
            CudaError: it failed.
        """
        with GPU.using():
            if not getattr(self._threads, "ready", False):
                self._checked("cudaSetDevice", self.device)
                self._threads.ready = True
            return self._checked(name, *arguments)

    def copy(self, to: int, source: int, size: int, kind: Any) -> None:
        """Copies bytes, after everything that was begun before; a kind is one of to_device, to_host and on_device."""
        self("cudaMemcpyAsync", to, source, size, kind, self.stream)

    def wait(self) -> None:
        """Until all that was begun has ended. Raises CudaError: something of it failed."""
        self("cudaStreamSynchronize", self.stream)

    def event(self) -> int:
        """A mark on the stream, which `cudaEventRecord` sets and `cudaEventSynchronize` waits for."""
        return int(self("cudaEventCreateWithFlags", self._runtime.cudaEventDisableTiming))

    def free(self, name: str, what: int) -> None:
        """Gives something back by a function; of a GPU that has failed, it goes with the process."""
        with contextlib.suppress(CudaError):
            self(name, what)

    def close(self) -> None:
        """Ends the stream, once all that was begun has ended."""
        self.free("cudaStreamSynchronize", self.stream)
        self.free("cudaStreamDestroy", self.stream)

    def pinned(self, size: int) -> Array:
        """So many bytes of zeros on the host, which a GPU copies without the processor."""
        address = self("cudaHostAlloc", size, 0)
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        weakref.finalize(memory, self.free, "cudaFreeHost", address).atexit = False
        memory[:] = 0
        return memory

    def _checked(self, name: str, *arguments: Any) -> Any:
        code, *found = getattr(self._runtime, name)(*arguments)
        if int(code):
            raise CudaError(f"{name}: {code!r}")
        return found[0] if found else None
