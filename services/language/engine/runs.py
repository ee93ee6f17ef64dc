"""Runs: the graphs of a generating bundle over the memory of its caches; arrays in, arrays out, for one thread.

Inputs and outputs are bound by pointer, the cache's new tokens to the memory of the old ones, so that a run copies
nothing. What is bound is kept for each shape that comes again. A run costs what the room in the cache is; so what
begins is read in a cache of its own with as little room as it needs, and moved to where the longest text has its own.
On a GPU the runs that take texts one token further are recorded, for few numbers of rows; and those that read prompts
are, for few numbers of rows and steps, in a cache of their own, as what is recorded has its place in memory.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.engine import Engine
from services.kit.inference.manifest import Generation
from services.language import graph
from services.language.engine.bound import Bound
from services.language.engine.cache import Cache
from services.language.engine.cuda import Cuda
from services.language.engine.drawn import Drawn, Draws
from services.language.engine.gpu_bound import GpuBound

MOST_BOUND = 256  # shapes that are kept, besides those that are recorded
FEWEST_STEPS = 16  # of what is recorded to read prompts; then twice, four times, ... as many
MOST_RECORDED = 512  # tokens of prompts in one run; more take so long that starting them does not count


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
    adjusted: bool  # whether logits change
    recorded: bool


class Runs:
    """A decoder, and its encoder where it has one.

    Args:
        cache: of the decoder's own tokens.
        cross: of what the encoder says of the sources; a row for each text like the cache.
        stage: for beginnings, and on a GPU for whatever is recorded to read prompts; they are moved to the cache then.
            None reads them there.
        kept: for beginnings of texts that may come again.
        cuda: of the GPU that has all of it.
    """

    def __init__(
        self,
        generation: Generation,
        decoder: Engine,
        cache: Cache,
        encoder: Engine | None = None,
        cross: Cache | None = None,
        stage: Cache | None = None,
        kept: Cache | None = None,
        cuda: Cuda | None = None,
    ) -> None:
        self._generation, self._decoder, self._encoder = generation, decoder, encoder
        self.cache, self.cross, self._stage = cache, cross, stage
        self.kept, self._cuda = kept, cuda
        self._unclear = 0  # rows of the stage, as it is laid out, that may hold what is no number
        self._bound: OrderedDict[_Shape, Bound] = OrderedDict()
        self._last: tuple[Bound, _Shape, int] | None = None  # how the last run was bound, and its draws
        self._recorded: dict[_Shape, Bound] = {}
        self._numbers = itertools.count(1)  # of what is recorded
        small = set(graph.past(generation.layers)) | set(graph.cross(generation.layers))
        self._inputs = [spec for spec in graph.decoder_inputs(generation) if spec.name not in small]
        self._outputs = graph.decoder_outputs()

    def run(
        self,
        first: int,
        token_ids: Sequence[Sequence[int]],
        start: Sequence[int],
        draws: Draws,
        source_length: Array | None = None,
    ) -> Drawn:
        """Takes tokens of the rows from `first` on; their keys and values are in the cache then.

        Args:
            token_ids: of each row; where it has fewer than the longest one, what follows them counts for nothing.
            start: the tokens of each row that are in the cache; with those of the longest one they fit into its size.
            source_length: int64 [rows], with an encoder.

        Raises whatever the runtime raises; tokens that were in the cache before are unchanged then.
        """
        steps = max(map(len, token_ids))
        shape = self._shape(first, steps, start, draws)
        stage = self._stage if shape.staged else None
        if stage is not None:
            self._prepare(stage, shape)
            for row, before in enumerate(start):
                if before:
                    stage.take(row, 0, self.cache, first + row, 0, before)
        bound = self._bound_for(shape)
        bound.take(token_ids, start, draws, source_length)
        try:
            bound.run()
        except Exception:
            self._forget(shape)
            raise
        self._last = bound, shape, len(draws.wishes.out_index)
        drawn = bound.drawn(len(draws.wishes.out_index))
        if stage is not None:
            for row, before in enumerate(start):
                self.cache.take(first + row, before, stage, row, before, steps)
            ends = [row * steps + len(tokens) - 1 for row, tokens in enumerate(token_ids)]
            # A query is multiplied with all values of its row, so that one which is no number shows in what is drawn;
            # 16 bits may overflow in keys alone, and so may what fills a recorded run up.
            numbers = draws.wishes.out_index.tolist() == ends and not any(map(math.isnan, drawn.logprobs))
            if numbers and self._generation.precision == "FP32" and not shape.recorded:
                self._unclear = 0
        return drawn

    def _prepare(self, stage: Cache, shape: _Shape) -> None:
        """Makes place for a run; what is in it are numbers, though they count for nothing."""
        if self._unclear:
            stage.clear(0, self._unclear)
        stage.empty(shape.size)
        self._unclear = shape.rows

    @property
    def ahead(self) -> int:
        """How many runs may have begun that have not been looked at, as of `begin`."""
        return 1 if self._last is None else self._last[0].ahead

    def begin(self, uniform: Sequence[float] = ()) -> None:
        """The last run again, which took one token of each row and drew the next one of each, with those.

        Args:
            uniform: of each draw; none: as it was.

        Raises whatever the runtime raises, as of `run`.
        """
        assert self._last is not None
        bound, shape, count = self._last
        try:
            bound.begin(count, uniform)
        except Exception:
            self._forget(shape)
            raise

    def ended(self) -> Drawn:
        """What the first of the runs drew that have begun and not been looked at. Raises as `run`."""
        assert self._last is not None
        bound, shape, count = self._last
        try:
            return bound.ended(count)
        except Exception:
            self._forget(shape)
            raise

    def _forget(self, shape: _Shape) -> None:
        """A run has failed, and may have spoilt what it was bound by."""
        (self._recorded if shape.recorded else self._bound).pop(shape, None)
        self._last = None

    def close(self) -> None:
        """Gives back what it has on a GPU; nothing is run after that."""
        if self._cuda is None:
            return
        self._last = None
        self._bound.clear()
        self._recorded.clear()
        for engine in (self._decoder, self._encoder):
            if engine is not None:
                engine.close()
        for cache in (self.cache, self.cross, self._stage, self.kept):
            if cache is not None:
                cache.storage.close()
        self._cuda.close()

    @property
    def records(self) -> bool:
        """Whether runs are recorded that take texts one token further, or read prompts."""
        return self._decoder.recorded and self.cross is None

    def rows(self, rows: int) -> int:
        """As many rows as a run has that takes so many from the first one on one token further; or some more.

        What is recorded is so for 1, 2, 3, 4, 6, 8, 12, 16, 24, ... rows, while there is memory for them.
        """
        if not self.records:
            return rows
        whole = 1
        while whole < rows:
            whole += max(1, whole // 2) if whole & (whole - 1) == 0 else whole // 3
        return whole if whole * self.cache.size <= self.cache.capacity else rows

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

    def _shape(self, first: int, steps: int, start: Sequence[int], draws: Draws) -> _Shape:
        rows, count, candidates = len(start), len(draws.wishes.out_index), draws.wishes.candidates
        cross, adjusted = self.cross.size if self.cross is not None else 0, draws.adjust is not None
        source = first if cross else 0
        recorded = self.records and not adjusted and count <= rows
        apart = self._apart(rows, steps, max(start), recorded=recorded)
        if apart is not None:
            first, (size, rows, steps) = 0, apart
        else:
            size, recorded = self.cache.size, recorded and steps == 1 and not first
        count = rows if recorded else count
        own = (apart is not None, first, size, source)
        return _Shape(*own, rows, steps, count, candidates, cross, adjusted, recorded)

    def _apart(self, rows: int, steps: int, before: int, *, recorded: bool) -> tuple[int, int, int] | None:
        """Room, rows and steps of a run that reads prompts in the stage; None: they are read in the cache.

        Args:
            before: tokens that the longest row has read.
            recorded: whether it is recorded there.
        """
        stage = self._stage
        if stage is None or steps == 1 or (not recorded and (self.records or before)):
            return None
        if recorded:
            rows, steps = _power_of_two(rows), max(FEWEST_STEPS, _power_of_two(steps))
            if rows * steps > MOST_RECORDED:
                return None
        room = stage.room(before + steps)
        fits = before + steps <= room and rows <= stage.rows(room)
        return (room, rows, steps) if fits and (recorded or room < self.cache.size) else None

    def _bound_for(self, shape: _Shape) -> Bound:
        if shape.recorded:
            if shape not in self._recorded:
                self._recorded[shape] = self._bind(shape)
            return self._recorded[shape]
        if shape not in self._bound:
            self._bound[shape] = self._bind(shape)
            if len(self._bound) > MOST_BOUND:
                self._bound.popitem(last=False)
        self._bound.move_to_end(shape)
        return self._bound[shape]

    def _bind(self, shape: _Shape) -> Bound:
        rows, draws, candidates = shape.rows, shape.draws, shape.candidates
        sizes: Mapping[str, tuple[int, ...]] = {
            graph.TOKEN_IDS: (rows, shape.steps),
            graph.START: (rows,),
            graph.STEPS: (shape.steps,),
            graph.PLACES: (shape.size,),
            graph.PLAIN: (1,),
            graph.QUERIES: (4,),
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
        session = self._decoder.session
        if self._cuda is not None:
            number = next(self._numbers) if shape.recorded else None
            shared = self._decoder.recorded
            bound: Bound = GpuBound(self._cuda, session, inputs, outputs, number, shared=shared)
        else:
            bound = Bound(session, inputs, outputs)
        if graph.QUERIES in bound.given.arrays:
            bound.given.arrays[graph.QUERIES][:] = graph.queries(self._generation, self._decoder.device)
        layers = self._generation.layers
        cache = self._stage if shape.staged and self._stage is not None else self.cache
        bound.bind_cache(cache, shape.first, rows, graph.past(layers), graph.present(layers))
        if self.cross is not None:
            bound.bind_cache(self.cross, shape.source, rows, graph.cross(layers))
        return bound


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
