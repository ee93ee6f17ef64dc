"""A stand-in for a GPU: CUDA's runtime over the memory of this process, and a session that binds as one for CUDA does.

It knows what is allocated, and refuses to touch anything else. The real one is looked at by `make gpu-check`.
"""

import ctypes
import enum
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from services.kit.inference.bundle import Array
from services.kit.inference.recording import GPU
from services.language.engine.gpu_bound import ON_HOST

STREAM = 7


class MemcpyKind(enum.IntEnum):
    """Which way a copy goes."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class Runtime:
    """What of `cuda.bindings.runtime` is used here. Memory is full of rubbish at first.

    What is asked for on a stream is done when somebody waits for it, or a run on that stream begins.
    """

    cudaMemcpyKind = MemcpyKind
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2

    def __init__(self, most: int = 1 << 30) -> None:
        self.allocated: dict[int, Any] = {}
        self._pinned: dict[int, Any] = {}
        self.asked: list[Callable[[], object]] = []
        self.streams = 0
        self.events: dict[int, int] = {}  # when each was set last, of all that has been asked for
        self._done, self._numbers = 0, itertools.count(100)
        self.most = most

    def cudaSetDevice(self, device: int) -> tuple[int]:
        return (0 if device == 0 else 101,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        self.streams += 1
        return 0, STREAM

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        assert not self.asked
        self.streams -= 1
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream == STREAM
        return self._do(len(self.asked))

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[int, int]:
        event = next(self._numbers)
        self.events[event] = 0
        return 0, event

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        del self.events[event]
        return (0,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        assert stream == STREAM
        self.events[event] = self._done + len(self.asked)
        return (0,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        return self._do(max(0, self.events[event] - self._done))

    def _do(self, count: int) -> tuple[int]:
        asked, self.asked = self.asked[:count], self.asked[count:]
        self._done += count
        for one in asked:
            one()
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        if size + sum(map(len, self.allocated.values())) > self.most:
            return 2, 0
        return 0, self._reserved(self.allocated, size)

    def cudaFree(self, address: int) -> tuple[int]:
        self.cudaStreamSynchronize(STREAM)
        del self.allocated[address]
        return (0,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return 0, self._reserved(self._pinned, size)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        del self._pinned[address]
        return (0,)

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> tuple[int]:
        self.own(address, size)
        return self._ask(lambda: ctypes.memset(address, value, size), stream)

    def cudaMemset2DAsync(
        self, address: int, pitch: int, value: int, width: int, lines: int, stream: int
    ) -> tuple[int]:
        for line in range(lines):
            self.cudaMemsetAsync(address + line * pitch, value, width, stream)
        return (0,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: MemcpyKind, stream: int) -> tuple[int]:
        return self._ask(lambda: self._copied(to, source, size, kind), stream)

    def cudaMemcpy2DAsync(
        self,
        to: int,
        pitch: int,
        source: int,
        source_pitch: int,
        width: int,
        lines: int,
        kind: MemcpyKind,
        stream: int,
    ) -> tuple[int]:
        for line in range(lines):
            self.cudaMemcpyAsync(to + line * pitch, source + line * source_pitch, width, kind, stream)
        return (0,)

    def _ask(self, what: Callable[[], object], stream: int) -> tuple[int]:
        assert stream == STREAM
        self.asked.append(what)
        return (0,)

    def _copied(self, to: int, source: int, size: int, kind: MemcpyKind) -> None:
        if kind != MemcpyKind.cudaMemcpyDeviceToHost:
            self.own(to, size)
        if kind != MemcpyKind.cudaMemcpyHostToDevice:
            self.own(source, size)
        assert abs(to - source) >= size, "CUDA's copies may not overlap"
        ctypes.memmove(to, source, size)

    def own(self, address: int, size: int) -> None:
        assert any(
            begin <= address and address + size <= begin + len(memory) for begin, memory in self.allocated.items()
        ), "not allocated"

    @staticmethod
    def _reserved(place: dict[int, Any], size: int) -> int:
        memory = (ctypes.c_ubyte * size).from_buffer(bytearray(b"\xcd" * size))
        place[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)


class Session:
    """ONNX Runtime's session on the CPU, which takes the stand-in's memory for a GPU's.

    It copies what is bound on the host, but for what a branch needs there. What is recorded may only be replayed with
    what was bound when it was. A run on the stream of copies follows them; another one must find them made, and be
    waited for. What is replayed is done when somebody waits for it, like a copy.
    """

    def __init__(self, session: Any, runtime: Runtime, *, shared: bool) -> None:
        self._session, self._runtime, self._shared = session, runtime, shared
        self.recorded: dict[str, dict[str, int]] = {}  # by their numbers: the addresses
        self.replayed = 0
        self.fails = False
        self.fails_to_record = 0  # so often

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> Any:
        return _Binding(self._session.io_binding(), self._runtime)

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def run_with_iobinding(self, binding: "_Binding", options: Any = None) -> None:
        if self.fails:
            raise RuntimeError("no memory")
        if options is not None:
            assert self._shared or options.get_run_config_entry("disable_synchronize_execution_providers") == "0"
        number = "-1" if options is None else options.get_run_config_entry("gpu_graph_id")
        replayed = self.replayed
        if self._shared and number not in self.recorded:
            self._runtime.cudaStreamSynchronize(STREAM)
        assert options is None or self._shared or not self._runtime.asked
        assert GPU._users or GPU._lock._is_owned()  # type: ignore[attr-defined]
        if number != "-1":
            if number not in self.recorded and self.fails_to_record:
                self.fails_to_record -= 1
                raise RuntimeError("no memory while it is recorded")
            self.replayed += number in self.recorded
            assert self.recorded.setdefault(number, dict(binding.addresses)) == binding.addresses
            if self._shared and self.replayed > replayed:
                self._runtime.asked.append(lambda: self._session.run_with_iobinding(binding.binding))
                return
        self._session.run_with_iobinding(binding.binding)


class _Binding:
    def __init__(self, binding: Any, runtime: Runtime) -> None:
        self.binding, self._runtime = binding, runtime
        self.addresses: dict[str, int] = {}
        self._copies: dict[str, Array] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.binding, name)

    def bind_input(self, name: str, device: str, number: int, kind: Any, shape: Any, address: int) -> None:
        if device == "cpu" and name not in ON_HOST:
            dtype = np.dtype(kind)
            size = int(np.prod(shape)) * dtype.itemsize
            copy = self._copies[name] = np.frombuffer(bytearray(ctypes.string_at(address, size)), dtype)
            address = copy.ctypes.data
        elif device == "cuda":
            self._runtime.own(address, int(np.prod(shape)) * np.dtype(kind).itemsize)
        self.addresses[name] = address
        self.binding.bind_input(name, "cpu", number, kind, shape, address)

    def bind_output(self, name: str, device: str, *place: Any) -> None:
        if place:
            self.addresses[name] = place[-1]
        self.binding.bind_output(name, "cpu", *place)
