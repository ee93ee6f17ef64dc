"""A stand-in for a GPU: CUDA's runtime over the memory of this process, and a session that binds as one for CUDA does.

It knows what is allocated, and refuses to touch anything else. The real one is looked at by `make gpu-check`.
"""

import ctypes
import enum
from typing import Any

import numpy as np

from services.kit.inference.bundle import Array
from services.language import graph


class MemcpyKind(enum.IntEnum):
    """Which way a copy goes."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class Runtime:
    """What of `cuda.bindings.runtime` is used here; memory is full of rubbish at first."""

    cudaMemcpyKind = MemcpyKind

    def __init__(self, most: int = 1 << 30) -> None:
        self.allocated: dict[int, Any] = {}
        self.most = most
        self.copies = 0

    def cudaSetDevice(self, device: int) -> tuple[int]:
        return (0 if device == 0 else 101,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        if size + sum(map(len, self.allocated.values())) > self.most:
            return 2, 0
        memory = (ctypes.c_ubyte * size).from_buffer(bytearray(b"\xcd" * size))
        self.allocated[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.allocated[address]
        return (0,)

    def cudaMemset(self, address: int, value: int, size: int) -> tuple[int]:
        self._own(address, size)
        ctypes.memset(address, value, size)
        return (0,)

    def cudaMemcpy(self, to: int, source: int, size: int, kind: MemcpyKind) -> tuple[int]:
        return self._copied(to, source, size, kind)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: MemcpyKind, _: int) -> tuple[int]:
        return self._copied(to, source, size, kind)

    def cudaMemcpy2DAsync(
        self, to: int, pitch: int, source: int, source_pitch: int, width: int, lines: int, kind: MemcpyKind, _: int
    ) -> tuple[int]:
        for line in range(lines):
            self._copied(to + line * pitch, source + line * source_pitch, width, kind)
        return (0,)

    def cudaStreamSynchronize(self, _: int) -> tuple[int]:
        return (0,)

    def _copied(self, to: int, source: int, size: int, kind: MemcpyKind) -> tuple[int]:
        if kind != MemcpyKind.cudaMemcpyDeviceToHost:
            self._own(to, size)
        if kind != MemcpyKind.cudaMemcpyHostToDevice:
            self._own(source, size)
        assert abs(to - source) >= size, "CUDA's copies may not overlap"
        ctypes.memmove(to, source, size)
        self.copies += 1
        return (0,)

    def _own(self, address: int, size: int) -> None:
        assert any(
            begin <= address and address + size <= begin + len(memory) for begin, memory in self.allocated.items()
        ), "not allocated"


class Session:
    """ONNX Runtime's session on the CPU, which takes the stand-in's memory for a GPU's.

    It copies what is bound on the host, but for what a branch needs there. What is recorded may only be replayed with
    what was bound when it was.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.recorded: dict[str, dict[str, int]] = {}  # by their numbers: the addresses
        self.replayed = 0
        self.fails = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> Any:
        return _Binding(self._session.io_binding())

    def run_with_iobinding(self, binding: "_Binding", options: Any) -> None:
        if self.fails:
            raise RuntimeError("no memory")
        number = options.get_run_config_entry("gpu_graph_id")
        if number != "-1":
            self.replayed += number in self.recorded
            assert self.recorded.setdefault(number, dict(binding.addresses)) == binding.addresses
        self._session.run_with_iobinding(binding.binding)


class _Binding:
    def __init__(self, binding: Any) -> None:
        self.binding = binding
        self.addresses: dict[str, int] = {}
        self._copies: dict[str, Array] = {}

    def bind_input(self, name: str, device: str, number: int, kind: Any, shape: Any, address: int) -> None:
        if device == "cpu" and name != graph.PLAIN:
            dtype = np.dtype(kind)
            size = int(np.prod(shape)) * dtype.itemsize
            copy = self._copies[name] = np.frombuffer(bytearray(ctypes.string_at(address, size)), dtype)
            address = copy.ctypes.data
        self.addresses[name] = address
        self.binding.bind_input(name, "cpu", number, kind, shape, address)

    def bind_output(self, name: str, device: str, number: int, kind: Any, shape: Any, address: int) -> None:
        self.addresses[name] = address
        self.binding.bind_output(name, "cpu", number, kind, shape, address)
