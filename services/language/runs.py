"""Runs: the graphs of a generating bundle over the memory of its caches; arrays in, arrays out, for one thread.

Inputs and outputs are bound by pointer, the cache's new tokens to the memory of the old ones, so that a run copies
nothing. What is bound is kept for each shape that comes again.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.datatypes import NUMPY
from services.kit.inference.engine import Engine
from services.kit.inference.manifest import Generation
from services.language import graph
from services.language.cache import Cache

MOST_BOUND = 256  # shapes that are kept
Shape = tuple[int, int, int, int, int, int, int]  # first row, rows, steps, draws, candidates, room in both caches
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


class _Bound:
    """One shape: the memory of its small inputs and outputs, and what is bound to them."""

    def __init__(self, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.binding = session.io_binding()
        self.arrays = {spec.name: np.zeros(spec.shape, NUMPY[spec.datatype]) for spec in (*inputs, *outputs)}
        self.wishes: Wishes | None = None  # that the memory holds
        self.adjusted = True
        for spec in inputs:
            self.bind(spec.name, self.arrays[spec.name])
        for spec in outputs:
            array = self.arrays[spec.name]
            self.binding.bind_output(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def bind(self, name: str, array: Array) -> None:
        """An input whose memory the caller keeps until after the run."""
        self.binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


class Runs:
    """A decoder, and its encoder where it has one.

    Args:
        cache: of the decoder's own tokens.
        cross: of what the encoder says of the sources; a row for each text like the cache.
    """

    def __init__(
        self,
        generation: Generation,
        decoder: Engine,
        cache: Cache,
        encoder: Engine | None = None,
        cross: Cache | None = None,
    ) -> None:
        self._generation, self._decoder, self._encoder = generation, decoder, encoder
        self.cache, self.cross = cache, cross
        self._bound: OrderedDict[Shape, _Bound] = OrderedDict()
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
        wishes = draws.wishes
        shape = self._shape(first, rows, steps, len(wishes.out_index), wishes.candidates)
        bound = self._of_shape(shape)
        arrays = bound.arrays
        arrays[graph.TOKEN_IDS][:] = token_ids
        arrays[graph.START][:] = start
        arrays[graph.UNIFORM][:, 0] = draws.uniform
        if bound.wishes is not wishes:
            arrays[graph.OUT_INDEX][:] = wishes.out_index
            for name in OF_WISHES:
                arrays[name][:, 0] = getattr(wishes, name)
            bound.wishes = wishes
        if source_length is not None:
            arrays[graph.SOURCE_LENGTH][:] = source_length
        if draws.adjust is not None or bound.adjusted:
            index, scale, bias = draws.adjust or NEUTRAL
            bound.bind(graph.ADJUST_INDEX, index)
            bound.bind(graph.ADJUST_SCALE, scale)
            bound.bind(graph.ADJUST_BIAS, bias)
            bound.adjusted = draws.adjust is not None
        try:
            self._decoder.session.run_with_iobinding(bound.binding)
        except Exception:
            del self._bound[shape]
            raise
        token, logprob, *top = (arrays[spec.name] for spec in self._outputs)
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

    def _shape(self, first: int, rows: int, steps: int, draws: int, candidates: int) -> Shape:
        cross = self.cross.size if self.cross is not None else 0
        return (first, rows, steps, draws, candidates, self.cache.size, cross)

    def _of_shape(self, shape: Shape) -> _Bound:
        bound = self._bound.get(shape)
        if bound is None:
            bound = self._bound[shape] = self._bind(*shape[:5])
            if len(self._bound) > MOST_BOUND:
                self._bound.popitem(last=False)
        self._bound.move_to_end(shape)
        return bound

    def _bind(self, first: int, rows: int, steps: int, draws: int, candidates: int) -> _Bound:
        shapes: Mapping[str, tuple[int, ...]] = {
            graph.TOKEN_IDS: (rows, steps),
            graph.START: (rows,),
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
            [TensorSpec(spec.name, spec.datatype, shapes.get(spec.name, (draws, 1))) for spec in specs]
            for specs in (self._inputs, self._outputs)
        )
        bound = _Bound(self._decoder.session, inputs, outputs)
        bound.arrays[graph.RANKS][:] = np.arange(candidates)
        layers, binding = self._generation.layers, bound.binding
        kind, shape = self.cache.dtype.type, self.cache.shape(rows)
        names = zip(graph.past(layers), graph.present(layers), self.cache.addresses(first), strict=True)
        for past, present, address in names:
            binding.bind_input(past, "cpu", 0, kind, shape, address)
            binding.bind_output(present, "cpu", 0, kind, shape, address)
        if self.cross is not None:
            shape = self.cross.shape(rows)
            for name, address in zip(graph.cross(layers), self.cross.addresses(first), strict=True):
                binding.bind_input(name, "cpu", 0, kind, shape, address)
        return bound
