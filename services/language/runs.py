"""Runs: the graphs of a generating bundle over the memory of its caches; arrays in, arrays out, for one thread.

Inputs and outputs are bound by pointer, the cache's new tokens to the memory of the old ones, so that a run copies
nothing. What is bound is kept for each shape that comes again. A run costs what the room in the cache is; so what
begins is read in a cache of its own with as little room as it needs, and moved to where the longest text has its own.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.datatypes import NUMPY
from services.kit.inference.engine import Engine
from services.kit.inference.manifest import Generation
from services.language import graph
from services.language.cache import Cache
from services.language.storage import HostStorage

MOST_BOUND = 256  # shapes that are kept
OF_WISHES = (graph.TEMPERATURE, graph.TOP_K, graph.TOP_P, graph.MIN_P, graph.FORCED)
NEUTRAL = (np.zeros((1, 2), np.int64), np.ones(1, np.float32), np.zeros(1, np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Wishes:
    """Which positions get a token, and how each is chosen; one entry each. They stay, while the same texts go on."""

    out_index: Array  # int64: row * steps + step
    temperature: Array  # float32, more than 0
    top_k: Array  # int64; 1 takes the most probable token
    top_p: Array  # float32
    min_p: Array  # float32
    forced: Array  # int64: -1, or the token to take
    candidates: int = 1  # tokens that a draw is made from at most, and that are told
    most_probable: bool = True  # whether each top_k is 1

    @classmethod
    def greedy(cls, out_index: Array) -> "Wishes":
        """The most probable token at each of these places."""
        ones, none = np.ones(len(out_index), np.float32), np.zeros(len(out_index), np.int64)
        return cls(out_index, ones, none + 1, ones, 0 * ones, none - 1)


@dataclass(frozen=True, slots=True)
class Draws:
    """The tokens to choose in one run."""

    wishes: Wishes
    uniform: Array  # float32 in [0, 1), of each draw
    adjust: tuple[Array, Array, Array] | None = None  # int64 [changes, 2], float32 [changes], float32 [changes]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came out, for each draw; valid until the next run."""

    token: Array  # int64 [draws]
    logprob: Array  # float32 [draws]
    top_token: Array  # int64 [draws, candidates]
    top_logprob: Array  # float32 [draws, candidates]


class _Shape(NamedTuple):
    """What a run is bound by."""

    staged: bool
    first: int  # row of the cache
    size: int  # room in it
    source: int  # first row of the cross cache
    rows: int
    steps: int
    draws: int
    candidates: int
    cross_size: int


class _Bound:
    """One shape: the memory of its small inputs and outputs, and what is bound to them.

    Args:
        copied: whether an input is copied when it is bound, as it is for a GPU, and not looked at later.
    """

    def __init__(
        self, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, copied: bool
    ) -> None:
        self.binding = session.io_binding()
        self._copied = copied
        self.arrays = {spec.name: np.zeros(spec.shape, NUMPY[spec.datatype]) for spec in (*inputs, *outputs)}
        self.wishes: Wishes | None = None  # that the memory holds
        self.adjusted = True
        for spec in inputs:
            self.bind(spec.name, self.arrays[spec.name])
        for spec in outputs:
            array = self.arrays[spec.name]
            self.binding.bind_output(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def put(self, name: str, values: Array | bool) -> None:
        """What an input is from now on."""
        array = self.arrays[name]
        if not self._copied:
            array[:] = values
        elif (array != values).any():
            array[:] = values
            self.bind(name, array)

    def bind(self, name: str, array: Array) -> None:
        """An input whose memory the caller keeps until after the run."""
        self.binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def bind_cache(
        self, cache: Cache, first: int, rows: int, inputs: Sequence[str], outputs: Sequence[str] = ()
    ) -> None:
        """Some rows of a cache; what comes out goes where it was."""
        place, addresses = (*cache.storage.device, cache.element, cache.shape(rows)), cache.addresses(first)
        for name, address in zip(inputs, addresses, strict=True):
            self.binding.bind_input(name, *place, address)
        for name, address in zip(outputs, addresses, strict=False):
            self.binding.bind_output(name, *place, address)

    def take(self, token_ids: Array, start: Array, draws: Draws, source_length: Array | None) -> None:
        """What the next run gets."""
        wishes = draws.wishes
        self.put(graph.TOKEN_IDS, token_ids)
        self.put(graph.START, start)
        self.put(graph.UNIFORM, draws.uniform[:, np.newaxis])
        if self.wishes is not wishes:
            self.put(graph.OUT_INDEX, wishes.out_index)
            for name in OF_WISHES:
                self.put(name, getattr(wishes, name)[:, np.newaxis])
            self.wishes = wishes
        self.put(graph.PLAIN, wishes.most_probable and draws.adjust is None)
        if source_length is not None:
            self.put(graph.SOURCE_LENGTH, source_length)
        if draws.adjust is not None or self.adjusted:
            index, scale, bias = draws.adjust or NEUTRAL
            self.bind(graph.ADJUST_INDEX, index)
            self.bind(graph.ADJUST_SCALE, scale)
            self.bind(graph.ADJUST_BIAS, bias)
            self.adjusted = draws.adjust is not None


class Runs:
    """A decoder, and its encoder where it has one.

    Args:
        cache: of the decoder's own tokens.
        cross: of what the encoder says of the sources; a row for each text like the cache.
        stage: for beginnings, which are moved to the cache then; None reads them there.
    """

    def __init__(
        self,
        generation: Generation,
        decoder: Engine,
        cache: Cache,
        encoder: Engine | None = None,
        cross: Cache | None = None,
        stage: Cache | None = None,
    ) -> None:
        self._generation, self._decoder, self._encoder = generation, decoder, encoder
        self.cache, self.cross, self._stage = cache, cross, stage
        self._bound: OrderedDict[_Shape, _Bound] = OrderedDict()
        small = set(graph.past(generation.layers)) | set(graph.cross(generation.layers))
        self._inputs = [spec for spec in graph.decoder_inputs(generation) if spec.name not in small]
        self._outputs = graph.decoder_outputs()

    def run(
        self, first: int, token_ids: Array, start: Array, draws: Draws, source_length: Array | None = None
    ) -> Drawn:
        """Takes tokens of the rows from `first` on; their keys and values are in the cache then.

        Args:
            token_ids: int64 [rows, steps], right-padded.
            start: int64 [rows], the tokens of each row that are in the cache; start + steps fits into its size.
            source_length: int64 [rows], with an encoder.

        Raises whatever the runtime raises; tokens that were in the cache before are unchanged then.
        """
        rows, steps = token_ids.shape
        stage = self._stage_for(rows, steps) if steps > 1 and not start.any() else None
        wishes = draws.wishes
        shape = self._shape(first, rows, steps, wishes, stage)
        bound = self._bound.get(shape) or self._bind(shape)
        self._bound.move_to_end(shape)
        bound.take(token_ids, start, draws, source_length)
        try:
            self._decoder.session.run_with_iobinding(bound.binding)
        except Exception:
            del self._bound[shape]
            raise
        if stage is not None:
            for row in range(rows):
                self.cache.take(first + row, stage, row, steps)
        token, logprob, *top = (bound.arrays[spec.name] for spec in self._outputs)
        return Drawn(token[:, 0], logprob[:, 0], *top)

    def encode(self, first: int, sources: Sequence[Sequence[int]]) -> None:
        """Reads source texts into the rows of the cross cache from `first` on; each gets the bits that it gets alone.

        Raises whatever the runtime raises.
        """
        assert self._encoder is not None
        assert self.cross is not None
        lengths = np.array([len(source) for source in sources], np.int64)
        padded = np.zeros((len(sources), lengths.max()), np.int64)
        for row, source in enumerate(sources):
            padded[row, : len(source)] = source
        inputs = {graph.SOURCE: padded, graph.SOURCE_LENGTH: lengths}
        said = self._encoder.run(inputs, graph.cross(self._generation.layers))
        for row, length in enumerate(lengths.tolist()):
            self.cross.write(first + row, 0, np.stack([block[row, :, :length] for block in said]))

    def _stage_for(self, rows: int, steps: int) -> Cache | None:
        """Where these beginnings are read, with the room that they need; None: in the cache."""
        stage = self._stage
        if stage is None or not steps <= stage.room(steps) < self.cache.size or stage.rows(steps) < rows:
            return None
        stage.empty(steps)
        return stage

    def _shape(self, first: int, rows: int, steps: int, wishes: Wishes, stage: Cache | None) -> _Shape:
        cross = self.cross.size if self.cross is not None else 0
        own = (True, 0, stage.size) if stage is not None else (False, first, self.cache.size)
        return _Shape(*own, first if cross else 0, rows, steps, len(wishes.out_index), wishes.candidates, cross)

    def _bind(self, shape: _Shape) -> _Bound:
        rows, draws, candidates = shape.rows, shape.draws, shape.candidates
        sizes: Mapping[str, tuple[int, ...]] = {
            graph.TOKEN_IDS: (rows, shape.steps),
            graph.START: (rows,),
            graph.STEPS: (shape.steps,),
            graph.PLACES: (shape.size,),
            graph.PLAIN: (1,),
            graph.OUT_INDEX: (draws,),
            graph.RANKS: (candidates,),
            graph.TOP_TOKEN: (draws, candidates),
            graph.TOP_LOGPROB: (draws, candidates),
            graph.SOURCE_LENGTH: (rows,),
            graph.ADJUST_INDEX: (1, 2),
            graph.ADJUST_SCALE: (1,),
            graph.ADJUST_BIAS: (1,),
        }
        inputs, outputs = (
            [TensorSpec(spec.name, spec.datatype, sizes.get(spec.name, (draws, 1))) for spec in specs]
            for specs in (self._inputs, self._outputs)
        )
        on_gpu = self.cache.storage.device != HostStorage.device
        bound = self._bound[shape] = _Bound(self._decoder.session, inputs, outputs, copied=on_gpu)
        for name in (graph.STEPS, graph.PLACES, graph.RANKS):
            bound.put(name, np.arange(len(bound.arrays[name])))
        layers = self._generation.layers
        cache = self._stage if shape.staged and self._stage is not None else self.cache
        bound.bind_cache(cache, shape.first, rows, graph.past(layers), graph.present(layers))
        if self.cross is not None:
            bound.bind_cache(self.cross, shape.source, rows, graph.cross(layers))
        if len(self._bound) > MOST_BOUND:
            self._bound.popitem(last=False)
        return bound
