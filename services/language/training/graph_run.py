"""GraphRun: a model that writes texts, run on the CPU a step at a time; for training, parity and known answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.kit.inference.bundle import Array
from services.kit.inference.datatypes import NUMPY, OF_ONNX
from services.kit.training.export import session
from services.language.graph import BY_QUERY, room
from services.language.training.sampler import OF_DRAWS, OUTPUTS


@dataclass(slots=True)
class Cache:
    """What the graph remembers of some texts."""

    past: dict[str, Array]  # past_k_0, ..., each [B, kv_heads, M, head_dim]
    source: dict[str, Array]  # source_length and cross_k_0, ...; empty without an encoder

    @property
    def memory(self) -> int:
        """Tokens that there is room for."""
        return int(next(iter(self.past.values())).shape[2])


class GraphRun:
    """One decoder and, where there is one, its encoder.

    Args:
        model, encoder: ONNX files.
        threads: of ONNX Runtime.
    """

    def __init__(self, model: bytes, encoder: bytes | None = None, threads: int = 1) -> None:
        self._decoder = session(model, threads)
        self._encoder = None if encoder is None else session(encoder, threads)
        self._shapes = {node.name: (OF_ONNX[node.type], node.shape) for node in self._decoder.get_inputs()}

    def cache(self, batch: int, memory: int, *, fill: float = 0.0, sources: Sequence[Sequence[int]] = ()) -> Cache:
        """An empty cache for `batch` texts of at most `memory` tokens, over these sources if any."""
        past = {}
        for name, (datatype, (_, heads, _, width)) in self._caches().items():
            past[name] = np.full((batch, heads, room(memory), width), fill, NUMPY[datatype])
        return Cache(past, self.encoded(sources) if sources else {})

    def encoded(self, sources: Sequence[Sequence[int]]) -> dict[str, Array]:
        """source_length and cross_k_0, cross_v_0, ... of the sources."""
        assert self._encoder is not None
        lengths = np.array([len(source) for source in sources], np.int64)
        names = [node.name for node in self._encoder.get_outputs()]
        results = self._encoder.run(names, {"source": padded(sources), "source_length": lengths})
        return {"source_length": lengths, **dict(zip(names, results, strict=True))}

    def step(
        self, cache: Cache, token_ids: Array, start: Array, out_index: Array, **sampling: Array
    ) -> dict[str, Array]:
        """What the sampler gives for the positions `out_index`; the tokens are in the cache afterwards.

        Args:
            token_ids, start, out_index: as the graph takes them.
            sampling: what the sampler takes and is not as `greedy` has it; for each draw a number.
        """
        inputs = {"token_ids": token_ids, "start": start, "out_index": out_index}
        inputs |= counted(token_ids.shape[1], cache.memory)
        inputs |= greedy(len(out_index)) | sampling | cache.source
        if "plain" in self._shapes:
            inputs = of_float32(sampling) | inputs
        binding = self._decoder.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array[:, np.newaxis] if name in OF_DRAWS else array))
        for name in OUTPUTS:
            binding.bind_output(name, "cpu")
        for name, array in cache.past.items():  # written in place
            place = ("cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(name.replace("past", "present"), *place)
        self._decoder.run_with_iobinding(binding)
        token, logprob, top_token, top_logprob = (value.numpy() for value in binding.get_outputs()[: len(OUTPUTS)])
        return dict(zip(OUTPUTS, (token[:, 0], logprob[:, 0], top_token, top_logprob), strict=True))

    def continued(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        end: Sequence[int] = (),
        *,
        sources: Sequence[Sequence[int]] = (),
    ) -> list[list[int]]:
        """The most probable tokens after each prompt: at most `limit`, up to and with the first one of `end`."""
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        rows, tokens, texts = np.arange(len(prompts)), padded(prompts), [list[int]() for _ in prompts]
        cache = self.cache(len(prompts), tokens.shape[1] + limit, sources=sources)
        start, out_index = np.zeros_like(lengths), rows * tokens.shape[1] + lengths - 1
        for made in range(limit):
            token = self.step(cache, tokens, start, out_index)["token"]
            for text, newest in zip(texts, token.tolist(), strict=True):
                if not text or text[-1] not in end:
                    text.append(newest)
            if all(text[-1] in end for text in texts):
                break
            start, tokens, out_index = lengths + made, token[:, None], rows
        return texts

    def _caches(self) -> dict[str, tuple[str, list[int]]]:
        return {name: found for name, found in self._shapes.items() if name.startswith("past")}


def greedy(rows: int) -> dict[str, Array]:
    """What the sampler takes to give the most probable token in each of `rows` places, with nothing adjusted."""
    ones = np.ones(rows, np.float32)
    return {
        "temperature": ones,
        "top_k": np.ones(rows, np.int64),
        "top_p": ones,
        "min_p": 0 * ones,
        "uniform": 0 * ones,
        "forced": np.full(rows, -1, np.int64),
        "ranks": np.zeros(1, np.int64),
        "adjust_index": np.zeros((1, 2), np.int64),
        "adjust_scale": np.ones(1, np.float32),
        "adjust_bias": np.zeros(1, np.float32),
    }


def counted(steps: int, memory: int) -> dict[str, Array]:
    """The inputs that are no more than sizes."""
    return {"steps": np.arange(steps), "places": np.arange(memory)}


def of_float32(sampling: Mapping[str, Array]) -> dict[str, Array]:
    """What only graphs of that precision take, on a CPU, with these wishes for draws."""
    drawn = (sampling.get("top_k", np.ones(1)) > 1).any() or "adjust_index" in sampling
    return {"plain": np.array([not drawn]), "queries": np.array(BY_QUERY)}


def padded(rows: Sequence[Sequence[int]]) -> Array:
    """int64 [rows, longest], with zeros behind the shorter ones."""
    array = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array
