"""GpuBound: one shape of run on a GPU, with small inputs and outputs there too, and recorded if it comes again.

A run on a GPU is hundreds of kernels, each of which takes less time than to start it. One that is recorded as a CUDA
graph is started as a whole, and gives the same bits. It reads and writes the memory that it was recorded with.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.engine import UNRECORDED, run_options
from services.kit.inference.recording import GPU
from services.language import graph
from services.language.bound import Bound, Packed
from services.language.cuda_storage import Cuda, CudaStorage

ON_HOST = (graph.PLAIN,)  # which branch is taken is decided there
BYTES = np.dtype(np.uint8)


class GpuBound(Bound):
    """Args:
    session: of ONNX Runtime with CUDA.
    number: of the CUDA graph, which no other shape of this session has; None: it is not recorded.
    """

    def __init__(
        self,
        cuda: Cuda,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        number: int | None = None,
    ) -> None:
        self._cuda = cuda
        self._memory: dict[int, CudaStorage] = {}  # by the packed arrays that it is for
        self._number, self._done = number, False
        self._plain, self._recorded = run_options(UNRECORDED), run_options(number or UNRECORDED)
        with GPU.using():
            super().__init__(session, inputs, outputs)

    def adjust(self, name: str, array: Array) -> None:
        """See Bound; it is copied now."""
        with GPU.using():
            super().adjust(name, array)

    def run(self) -> None:
        """See Bound."""
        self._there(self.given).fill(self.given.memory)
        if self._number is None or not self._record():
            with GPU.using():
                self._session.run_with_iobinding(self.binding, self.options)
        self._there(self.found).fetch(self.found.memory)

    @property
    def options(self) -> Any:
        """ONNX Runtime's, for the next run."""
        return self._recorded if self._done else self._plain

    def _record(self) -> bool:
        """Whether it was recorded, and thereby run, just now."""
        if self._done:
            return False
        with GPU.alone() as alone:
            if alone:
                self._session.run_with_iobinding(self.binding, self._recorded)
                self._done = True
        return alone

    def _place(self, packed: Packed, name: str) -> tuple[str, int, int]:
        if name in ON_HOST:
            return super()._place(packed, name)
        there = self._there(packed)
        return *there.device, there.address + packed.offsets[name]

    def _there(self, packed: Packed) -> CudaStorage:
        """Where packed arrays are on the GPU."""
        key = id(packed)
        if key not in self._memory:
            self._memory[key] = CudaStorage(self._cuda, 1, len(packed.memory), BYTES)
        return self._memory[key]
