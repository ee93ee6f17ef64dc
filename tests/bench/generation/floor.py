"""Floor: what ONNX Runtime takes for the same texts when nothing decides anything: session.run in a loop.

All prompts are read, each in a run of its own, as they come to a service whose callers are not in step; or several side
by side in runs of at most PIECE tokens, as no service could that does not know them before. Then every row makes one
text after the other, each beginning where its prompt ends, all rows in every run, until as many runs are made as there
are tokens to make for each row. Room in the cache is what the longest text of a run needs, as the service has it.
Everything is bound before the clock starts; no token is looked at.
"""

import itertools
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.engine import Engine, EngineSettings
from services.language import graph
from services.language.engine.cache import Cache
from services.language.engine.cuda import Cuda
from services.language.engine.cuda_storage import CudaStorage
from services.language.engine.drawn import Draws, Wishes
from services.language.engine.gpu_bound import GpuBound
from services.language.engine.memory import STAGED_RECORDED
from services.language.engine.runs import Runs
from services.language.training.graph_run import counted, greedy, of_float32
from services.language.training.sampler import OF_DRAWS
from tests.bench.generation.load import Made, Text

PIECE = 512  # tokens of prompts in one run
SMALLEST = 64  # room for tokens; then twice, four times, ... as many


class Floor:
    """The graph of a bundle over caches for `rows` texts.

    Args:
        longest: tokens of the longest text.
        joined: whether prompts are read side by side.
    """

    def __init__(self, bundle: Bundle, rows: int, longest: int, threads: int, *, joined: bool) -> None:
        self._rows, self._longest, self._joined = rows, graph.room(longest), joined
        self._open(bundle, threads)

    def _open(self, bundle: Bundle, threads: int) -> None:
        """Loads the graph, and reserves memory for the caches."""
        self._session: Any = Engine(bundle.path / bundles.MODEL, EngineSettings(device="cpu", threads=threads)).session
        rows, longest = self._rows, self._longest
        caches = [node for node in self._session.get_inputs() if node.name.startswith("past")]
        _, self._heads, _, self._width = caches[0].shape
        size = rows * self._heads * longest * self._width
        self._memory = {node.name: np.zeros(size, np.float32) for node in caches}
        self._bound: dict[tuple[int, int, int], tuple[Any, dict[str, Array]]] = {}  # by rows, steps and room

    def measured(self, wanted: list[Text]) -> Made:
        """As many tokens as all of the texts have."""
        runs = [*self._prompts(wanted), *self._answers(wanted)]
        for shape in {(rows, steps, room) for rows, steps, room, _ in runs}:
            self._run(*shape, np.zeros(shape[0], np.int64))
        started = time.perf_counter()
        for rows, steps, room, start in runs:
            self._run(rows, steps, room, start)
        return Made(sum(text.new for text in wanted), time.perf_counter() - started, [])

    def _prompts(self, wanted: list[Text]) -> Iterator[tuple[int, int, int, Array]]:
        """Those of about the same length share a run, so that little of it is padding."""
        lengths = sorted(len(text.prompt) for text in wanted)
        while lengths:
            steps = lengths[-1]
            rows = max(1, min(self._rows, len(lengths), PIECE // steps)) if self._joined else 1
            del lengths[-rows:]
            yield rows, steps, self._room(steps), np.zeros(rows, np.int64)

    def _answers(self, wanted: list[Text]) -> Iterator[tuple[int, int, int, Array]]:
        """Prompts have given the first token of each text."""
        rows = self._rows
        lines = [itertools.cycle(wanted[row:] + wanted[:row]) for row in range(rows)]
        places = [_places(line) for line in lines]
        for row, line in enumerate(places):  # not all at the beginning of a text
            next(itertools.islice(line, row * 7, None))
        for _ in range(round(sum(text.new - 1 for text in wanted) / rows)):
            start = np.array([next(line) for line in places], np.int64)
            yield rows, 1, self._room(int(start.max()) + 1), start

    def _room(self, tokens: int) -> int:
        room = SMALLEST
        while room < tokens:
            room *= 2
        return min(room, self._longest)

    def _run(self, rows: int, steps: int, room: int, start: Array) -> None:
        key = (rows, steps, room)
        if key not in self._bound:
            self._bound[key] = self._bind(*key)
        binding, inputs = self._bound[key]
        inputs["start"][:] = start
        self._session.run_with_iobinding(binding)

    def _bind(self, rows: int, steps: int, room: int) -> tuple[Any, dict[str, Array]]:
        binding = self._session.io_binding()
        tokens = np.arange(rows * steps).reshape(rows, steps)
        last = np.arange(rows) * steps + steps - 1
        draws = {name: array[:, np.newaxis] if name in OF_DRAWS else array for name, array in greedy(rows).items()}
        draws |= counted(steps, room) | of_float32({})
        inputs = {"token_ids": tokens, "start": np.zeros(rows, np.int64), "out_index": last, **draws}
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name in ("token", "logprob", "top_token", "top_logprob"):
            binding.bind_output(name, "cpu")
        shape = (rows, self._heads, room, self._width)
        for name, memory in self._memory.items():
            place = ("cpu", 0, np.float32, shape, memory.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(name.replace("past", "present"), *place)
        return binding, inputs


class GpuFloor(Floor):
    """On a GPU, where runs are recorded before the clock starts, and then replayed."""

    def _open(self, bundle: Bundle, threads: int) -> None:
        generation = bundle.manifest.generation
        assert generation is not None
        self._cuda = Cuda.open(0)
        stream = self._cuda.stream if generation.precision != "FP32" else None
        engine = Engine(bundle.path / bundles.MODEL, EngineSettings(device="cuda"), stream=stream)
        own, blank = (2 * generation.layers, generation.kv_heads, generation.head_dim), partial(CudaStorage, self._cuda)
        cache, stage = (
            Cache(*own, tokens, self._longest, generation.precision, blank=blank)
            for tokens in (self._rows * self._longest, STAGED_RECORDED)
        )
        self._runs = Runs(generation, engine, cache, stage=stage, cuda=self._cuda)
        self._shapes: dict[tuple[int, int, int], GpuBound] = {}

    def _run(self, rows: int, steps: int, room: int, start: Array) -> None:
        key = (rows, steps, room)
        if key not in self._shapes:
            self._runs.cache.empty(room)
            draws = Draws(Wishes.greedy(np.arange(rows) * steps + steps - 1), [0.0] * rows)
            self._runs.run(0, [[0] * steps] * rows, start.tolist(), draws)
            bound = self._runs._bound_for(self._runs._shape(0, steps, start.tolist(), draws))
            assert isinstance(bound, GpuBound)
            self._shapes[key] = bound
        self._shapes[key].replay()
        self._cuda.wait()


def _places(line: "itertools.cycle[Text]") -> Iterator[int]:
    for text in line:
        yield from range(len(text.prompt), len(text.prompt) + text.new - 1)
