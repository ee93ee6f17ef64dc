"""Texts with a draw after every token, run through a graph in all ways there are; what came out, to the bit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.kit.inference.bundle import Array
from services.language.training.graph_run import GraphRun
from services.language.training.sampler import CANDIDATES, OF_DRAWS, OUTPUTS

WAYS = ((1.0, 1, 1.0, 0.0), (0.8, 40, 0.9, 0.0), (1.2, 64, 1.0, 0.05), (0.7, 5, 1.0, 0.0))  # temperature, top_k, ...
FORCED_EVERY, ADJUSTED_EVERY = 7, 3  # positions


@dataclass(frozen=True, slots=True)
class Texts:
    """Some texts of equal length, and what is drawn after each token."""

    tokens: Array  # int64 [texts, length]
    uniform: Array  # float32 [texts, length]
    sources: tuple[tuple[int, ...], ...]  # one a text; empty without an encoder

    def part(self, rows: Sequence[int]) -> "Texts":
        """Some of them."""
        sources = tuple(self.sources[row] for row in rows) if self.sources else ()
        return Texts(self.tokens[list(rows)], self.uniform[list(rows)], sources)


def some_texts(vocab: int, count: int, length: int, longest_source: int = 0, seed: int = 5) -> Texts:
    """Random ones; sources are of all lengths up to `longest_source`."""
    random = np.random.default_rng(seed)
    sources = [random.integers(0, vocab, 1 + row % longest_source) for row in range(count)] if longest_source else []
    return Texts(
        random.integers(0, vocab, (count, length)),
        random.random((count, length), np.float32),
        tuple(tuple(source.tolist()) for source in sources),
    )


def sampling(tokens: Array, uniform: Array, at: int) -> dict[str, Array]:
    """What the sampler takes after tokens [B, T], the first of which is number `at` of its text: all kinds of things.

    It depends on the token, its number and nothing else.
    """
    numbers = np.broadcast_to(at + np.arange(tokens.shape[1]), tokens.shape).reshape(-1)
    flat = tokens.reshape(-1)
    ways = np.array(WAYS)[(flat + numbers) % len(WAYS)]
    forced = np.where(numbers % FORCED_EVERY == 3, flat, -1)
    adjusted = np.flatnonzero(numbers % ADJUSTED_EVERY == 1)
    found = {
        "temperature": ways[:, 0].astype(np.float32),
        "top_k": ways[:, 1].astype(np.int64),
        "top_p": ways[:, 2].astype(np.float32),
        "min_p": ways[:, 3].astype(np.float32),
        "uniform": uniform.reshape(-1),
        "forced": forced,
        "ranks": np.arange(CANDIDATES),
    }
    if len(adjusted):
        found["adjust_index"] = np.stack((adjusted, flat[adjusted]), 1)
        found["adjust_scale"] = np.full(len(adjusted), 1.3, np.float32)
        found["adjust_bias"] = np.where(flat[adjusted] % 2, -1e30, -0.5).astype(np.float32)
    return found


def together(ways: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """What the sampler takes for places whose ways are these, one a place."""
    index = np.concatenate(
        [[[0, 0]], *(way["adjust_index"] + [place, 0] for place, way in enumerate(ways) if "adjust_index" in way)]
    )
    found = {name: np.concatenate([way[name] for way in ways]) for name in OF_DRAWS}
    for name, neutral in (("adjust_scale", 1), ("adjust_bias", 0)):
        found[name] = np.concatenate([[neutral], *(way[name] for way in ways if name in way)]).astype(np.float32)
    return found | {"adjust_index": index, "ranks": ways[0]["ranks"]}


def bits(run: GraphRun, texts: Texts, piece: int, memory: int, fill: float = 7.0) -> list[bytes]:
    """Of each text all that the sampler gives after every token, the texts being run together in pieces.

    Args:
        memory: tokens that the cache has room for.
        fill: what lies in the cache before.
    """
    count, length = texts.tokens.shape
    cache, found = run.cache(count, memory, fill=fill, sources=texts.sources), [b""] * count
    for at in range(0, length, piece):
        tokens, uniform = texts.tokens[:, at : at + piece], texts.uniform[:, at : at + piece]
        results = run.step(cache, tokens, np.full(count, at), np.arange(tokens.size), **sampling(tokens, uniform, at))
        newest = np.concatenate([_bytes(results[name]) for name in OUTPUTS], 1).reshape(count, -1)
        found = [bits + more.tobytes() for bits, more in zip(found, newest, strict=True)]
    return found


def written(run: GraphRun, texts: Texts, prompt: int, made: Array, memory: int) -> tuple[Array, Array]:
    """What texts become after `prompt` tokens of theirs and those of `made`: tokens, and bits of log-probabilities.

    They are as long as the texts are, and have their draws. What they have at first goes through the graph in one run.

    Args:
        made: int64 [texts, any number], tokens that were written before.

    Returns:
        int64 [texts, length - prompt], those of `made` first, and int32 [texts, length - prompt - made].
    """
    count, length = texts.tokens.shape
    cache, logprobs = run.cache(count, memory, fill=7.0, sources=texts.sources), []
    tokens, start = np.concatenate((texts.tokens[:, :prompt], made), 1), 0
    for at in range(tokens.shape[1], length):
        out_index = np.arange(count) * tokens.shape[1] + tokens.shape[1] - 1
        how = sampling(tokens[:, -1:], texts.uniform[:, at - 1 : at], at)
        results = run.step(cache, tokens, np.full(count, start), out_index, **how)
        start, tokens = at, results["token"][:, None]
        made = np.concatenate((made, tokens), 1)
        logprobs.append(results["logprob"].view(np.int32))
    return made, np.stack(logprobs, 1)


def _bytes(array: Array) -> Array:
    """uint8 [N, bytes of a row]."""
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
