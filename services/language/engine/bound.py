"""Bound: one shape of run: the memory of its small inputs and outputs, and what is bound to them and to the caches.

What changes in every run is written and read through memoryviews: a run over many weights has pushed all else out of
the processor's caches, and of NumPy's code far more is needed again than these few numbers are worth.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.datatypes import NUMPY
from services.language import graph
from services.language.engine.cache import Cache
from services.language.engine.drawn import Drawn, Draws, Wishes
from services.language.engine.storage import BYTES

ALIGNED = 256  # bytes
OF_WISHES = (graph.TEMPERATURE, graph.TOP_K, graph.TOP_P, graph.MIN_P, graph.FORCED)
COUNTED = (graph.STEPS, graph.PLACES, graph.RANKS)  # 0, 1, ...
# What draws have that nobody asks for, and the logits that change where none does.
NEUTRAL = {graph.TEMPERATURE: 1, graph.TOP_K: 1, graph.TOP_P: 1, graph.FORCED: -1, graph.ADJUST_SCALE: 1}
OF_ADJUSTMENTS = (graph.ADJUST_INDEX, graph.ADJUST_SCALE, graph.ADJUST_BIAS)


class Packed:
    """Arrays of zeros, one behind the other in one stretch of memory.

    Args:
        zeros: where so many bytes of it come from.
    """

    def __init__(self, specs: Sequence[TensorSpec], zeros: Callable[[int], Array]) -> None:
        self.offsets: dict[str, int] = {}
        size = 0
        for spec in specs:
            self.offsets[spec.name] = size
            size += -(-_bytes(spec) // ALIGNED) * ALIGNED
        self.memory = zeros(size)
        self.arrays: dict[str, Array] = {}
        for spec in specs:
            part = self.memory[self.offsets[spec.name] :][: _bytes(spec)]
            self.arrays[spec.name] = part.view(NUMPY[spec.datatype]).reshape(spec.shape)


class Found:
    """What comes out of a run, in memory that the next one writes over."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._tokens, self._logprobs = arrays[graph.TOKEN][:, 0].data, arrays[graph.LOGPROB][:, 0].data
        self._top_tokens, self._top_logprobs = arrays[graph.TOP_TOKEN], arrays[graph.TOP_LOGPROB]

    def tokens(self, count: int) -> Any:
        """The first ones, a view."""
        return self._tokens[:count]

    def drawn(self, count: int) -> Drawn:
        """Of the first draws."""
        logprobs: list[Any] = self._logprobs[:count].tolist()
        return Drawn(self._tokens[:count].tolist(), logprobs, self._top_tokens, self._top_logprobs)


class Bound:
    """On the host. A run may have fewer rows, steps and draws than the shape: the last ones are nobody's then."""

    def __init__(self, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._session, self.binding = session, session.io_binding()
        self.given, self.found = self._packed(inputs), self._packed(outputs)
        for name in COUNTED:
            self.given.arrays[name][:] = np.arange(len(self.given.arrays[name]))
        for name, value in NEUTRAL.items():
            self.given.arrays[name][:] = value
        self._wishes: Wishes | None = None  # that the memory holds
        self._steps = self.given.arrays[graph.TOKEN_IDS].shape[1]
        given, self._out = self.given.arrays, Found(self.found.arrays)
        self._newest, self._start = given[graph.TOKEN_IDS][:, 0].data, given[graph.START].data
        self._uniform = given[graph.UNIFORM][:, 0].data
        self._plain = given[graph.PLAIN].data if graph.PLAIN in given else None
        for name, array in self.given.arrays.items():
            device, number, address = self._place(self.given, name)
            self.binding.bind_input(name, device, number, array.dtype.type, array.shape, address)
        for name, array in self.found.arrays.items():
            device, number, address = self._place(self.found, name)
            self.binding.bind_output(name, device, number, array.dtype.type, array.shape, address)

    def bind_cache(
        self, cache: Cache, first: int, rows: int, inputs: Sequence[str], outputs: Sequence[str] = ()
    ) -> None:
        """Some rows of a cache; what comes out goes where it was."""
        place, addresses = (*cache.storage.device, cache.element, cache.shape(rows)), cache.addresses(first)
        for name, address in zip(inputs, addresses, strict=True):
            self.binding.bind_input(name, *place, address)
        for name, address in zip(outputs, addresses, strict=False):
            self.binding.bind_output(name, *place, address)

    def take(
        self, token_ids: Sequence[Sequence[int]], start: Sequence[int], draws: Draws, source_length: Array | None
    ) -> None:
        """What the next run gets; as `Runs.run` says."""
        put(self._start, start)
        put(self._uniform, draws.uniform)
        if self._steps == 1:
            put(self._newest, (token for (token,) in token_ids))
        else:
            padded = self.given.arrays[graph.TOKEN_IDS]
            padded[:] = 0  # what others were may be no number where nothing looks at it, and spoil this
            for row, tokens in enumerate(token_ids):
                padded[row, : len(tokens)] = tokens
        if self._wishes is not draws.wishes:
            self._take_wishes(draws.wishes, max(map(len, token_ids)))
        if self._plain is not None:
            self._plain[0] = draws.wishes.most_probable and draws.adjust is None
        if source_length is not None:
            self.given.arrays[graph.SOURCE_LENGTH][:] = source_length
        for name, array in zip(OF_ADJUSTMENTS, draws.adjust or (), strict=False):
            self.adjust(name, array)

    def _take_wishes(self, wishes: Wishes, steps: int) -> None:
        """Args: steps: of what was asked for, that the shape may have more of."""
        arrays, count = self.given.arrays, len(wishes.out_index)
        if steps == self._steps:
            arrays[graph.OUT_INDEX][:count] = wishes.out_index
        else:
            row, step = np.divmod(wishes.out_index, steps)
            arrays[graph.OUT_INDEX][:count] = row * self._steps + step
        for name in OF_WISHES:
            arrays[name][:count, 0] = getattr(wishes, name)
        self._wishes = wishes

    @property
    def ahead(self) -> int:
        """Runs that may be under way together, each of which takes what the one before it draws."""
        return 1

    def begin(self, rows: int, uniform: Sequence[float]) -> None:
        """The run after one with a token of each row: with what that drew, behind what it had. Raises like `run`."""
        self._newest[:rows] = self._out.tokens(rows)  # a row that is nobody's stays where it is
        for row in range(rows):
            self._start[row] += 1
        put(self._uniform, uniform)
        self.run()

    def ended(self, rows: int) -> Drawn:
        """What the first of the runs drew that have begun, once it has ended. Raises like `run`."""
        return self.drawn(rows)

    def adjust(self, name: str, array: Array) -> None:
        """An input of another size in every run, whose memory the caller keeps until after the next one."""
        self.binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(self) -> None:
        """Computes what comes out of what it has taken. Raises whatever the runtime raises."""
        self._session.run_with_iobinding(self.binding)

    def drawn(self, count: int) -> Drawn:
        """What came out for the first draws."""
        return self._out.drawn(count)

    def _packed(self, specs: Sequence[TensorSpec]) -> Packed:
        return Packed(specs, lambda size: np.zeros(size, BYTES))

    def _place(self, packed: Packed, name: str) -> tuple[str, int, int]:
        """The device, its number, and the address there of one of the arrays."""
        return "cpu", 0, packed.arrays[name].ctypes.data


def put(memory: Any, values: Iterable[float]) -> None:
    """Writes them at its beginning."""
    for place, value in enumerate(values):
        memory[place] = value


def _bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape)) * NUMPY[spec.datatype].itemsize
