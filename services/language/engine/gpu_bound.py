"""GpuBound: one shape of run on a GPU, with small inputs and outputs there too, and recorded if it comes again.

A run on a GPU is hundreds of kernels, each of which takes less time than to start it. One that is recorded as a CUDA
graph is started as a whole, and gives the same bits. It reads and writes the memory that it was recorded with. Of those
that take texts one token further the next one begins while one is under way, and takes its token on the GPU.
"""

import contextlib
import itertools
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import structlog

from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.engine import UNRECORDED, run_options
from services.kit.inference.recording import GPU
from services.language import graph
from services.language.engine.bound import Bound, Found, Packed, put
from services.language.engine.cuda import Cuda, CudaError
from services.language.engine.cuda_storage import CudaStorage
from services.language.engine.drawn import Drawn
from services.language.engine.storage import BYTES

ON_HOST = (graph.PLAIN, graph.QUERIES)  # which branch is taken and which shape is made are decided there
# How often it is tried to record a shape: what its session has not reserved it cannot get meanwhile; the run after that
# reserves it.
RECORDINGS = 2
AHEAD = 2  # runs under way together
TOKEN_BYTES = 8  # int64, as drawn and as taken
MOVING = (graph.START, graph.UNIFORM)  # what changes from run to run, besides the tokens


class _Turn:
    """What one of the runs that are under way together has on the host."""

    def __init__(self, cuda: Cuda, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.moving = Packed([spec for spec in inputs if spec.name in MOVING], cuda.pinned)
        self.found = Packed(outputs, cuda.pinned)
        self.out = Found(self.found.arrays)
        self.over = cuda.event()
        weakref.finalize(self, cuda.free, "cudaEventDestroy", self.over).atexit = False


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
        self._under_way = deque[_Turn]()
        with GPU.using():
            super().__init__(session, inputs, outputs)
        self._ahead = AHEAD if number is not None and shared and self._steps == 1 else 1
        turns = range(self._ahead if self._ahead > 1 else 0)
        self._turns = itertools.cycle([_Turn(cuda, inputs, outputs) for _ in turns])

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
        self._under_way.clear()  # what nobody has looked at is over, too

    @property
    def ahead(self) -> int:
        """See Bound."""
        return self._ahead if self._done else 1

    def begin(self, rows: int, uniform: Sequence[float]) -> None:
        """See Bound."""
        if self.ahead == 1:
            super().begin(rows, uniform)
            return
        for row in range(rows):
            self._start[row] += 1
        try:
            self._begin(next(self._turns), rows, uniform)
        except Exception:
            self._give_up()
            raise

    def ended(self, rows: int) -> Drawn:
        """See Bound."""
        if not self._under_way:
            return super().ended(rows)
        turn = self._under_way.popleft()
        try:
            self._cuda("cudaEventSynchronize", turn.over)
        except CudaError:
            self._give_up()
            raise
        return turn.out.drawn(rows)

    def _begin(self, turn: _Turn, rows: int, uniform: Sequence[float]) -> None:
        copy, given, found = self._cuda.copy, self._at(self.given), self._at(self.found)
        moving = turn.moving.arrays
        moving[graph.START][:] = self.given.arrays[graph.START]
        put(moving[graph.UNIFORM][:, 0].data, uniform)
        for name in MOVING if uniform else (graph.START,):
            array = moving[name]
            copy(given + self.given.offsets[name], array.ctypes.data, array.nbytes, self._cuda.to_device)
        drawn, newest = found + self.found.offsets[graph.TOKEN], given + self.given.offsets[graph.TOKEN_IDS]
        copy(newest, drawn, rows * TOKEN_BYTES, self._cuda.on_device)
        with GPU.using():
            self.replay()
        memory = turn.found.memory
        copy(memory.ctypes.data, found, len(memory), self._cuda.to_host)
        self._cuda("cudaEventRecord", turn.over, self._cuda.stream)
        self._under_way.append(turn)

    def _give_up(self) -> None:
        """A run has failed; no other one uses this memory when it has."""
        self._under_way.clear()
        with contextlib.suppress(CudaError):
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
