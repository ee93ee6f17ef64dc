"""GpuBound: one shape of run on a GPU, with small inputs and outputs there too, and recorded if it comes again.

A run on a GPU is hundreds of kernels, each of which takes less time than to start it. One that is recorded as a CUDA
graph is started as a whole, and gives the same bits. It reads and writes the memory that it was recorded with.
"""

from collections.abc import Sequence
from typing import Any

import structlog

from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.engine import UNRECORDED, run_options
from services.kit.inference.recording import GPU
from services.language import graph
from services.language.engine.bound import Bound, Packed
from services.language.engine.cuda import Cuda
from services.language.engine.cuda_storage import CudaStorage
from services.language.engine.storage import BYTES

ON_HOST = (graph.PLAIN, graph.QUERIES)  # which branch is taken and which shape is made are decided there
# How often it is tried to record a shape: what its session has not reserved it cannot get meanwhile; the run after that
# reserves it.
RECORDINGS = 2


class GpuBound(Bound):
    """Args:
    session: of ONNX Runtime.
    shared: whether its runs are on the same stream as copies are; they wait for one another else.
    number: of the CUDA graph, which no other shape of this session has; None: it is not recorded.
    """

    def __init__(
        self,
        cuda: Cuda,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        number: int | None = None,
        *,
        shared: bool,
    ) -> None:
        self._cuda, self._there = cuda, dict[int, CudaStorage]()  # by the packed arrays that they are for
        self._recordings = 0 if number is None else RECORDINGS  # to be tried
        self._done, self._postponed, self._shared = False, False, shared
        self._unrecorded = run_options(UNRECORDED, waits=not shared)
        self._recorded = run_options(UNRECORDED if number is None else number, waits=not shared)
        with GPU.using():
            super().__init__(session, inputs, outputs)

    def adjust(self, name: str, array: Array) -> None:
        """See Bound; it is copied now."""
        with GPU.using():
            super().adjust(name, array)

    def run(self) -> None:
        """See Bound."""
        given, found = self.given.memory, self.found.memory
        self._cuda.copy(self._at(self.given), given.ctypes.data, len(given), self._cuda.to_device)
        if not self._shared:
            self._cuda.wait()
        if not self._record():
            with GPU.using():
                self.replay()
        self._cuda.copy(found.ctypes.data, self._at(self.found), len(found), self._cuda.to_host)
        self._cuda.wait()

    def replay(self) -> None:
        """Begins the run alone, with what is there."""
        self._session.run_with_iobinding(self.binding, self._recorded if self._done else self._unrecorded)

    def _record(self) -> bool:
        """Whether it was recorded, and thereby run, just now."""
        if self._done or not self._recordings:
            return False
        self._cuda.wait()
        with GPU.alone() as alone:
            if not alone:
                self._postpone()
                return False
            try:
                self._session.run_with_iobinding(self.binding, self._recorded)
            except Exception as error:  # onnxruntime's own classes share no other base
                self._recordings -= 1
                structlog.get_logger().warning("run_not_recorded", error=str(error), again=self._recordings > 0)
                return False
            self._done = True
        return True

    def _postpone(self) -> None:
        if not self._postponed:
            structlog.get_logger().info("recording_postponed", why="another model is using the GPU")
        self._postponed = True

    def _packed(self, specs: Sequence[TensorSpec]) -> Packed:
        packed = Packed(specs, self._cuda.pinned)
        self._there[id(packed)] = CudaStorage(self._cuda, 1, len(packed.memory), BYTES)
        return packed

    def _place(self, packed: Packed, name: str) -> tuple[str, int, int]:
        if name in ON_HOST:
            return super()._place(packed, name)
        return *self._there[id(packed)].device, self._at(packed) + packed.offsets[name]

    def _at(self, packed: Packed) -> int:
        return self._there[id(packed)].address
