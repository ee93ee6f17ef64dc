"""A model that can be computed by hand, over real caches, and a tokenizer whose tokens are characters."""

from collections.abc import Sequence as Tokens

import numpy as np
from prometheus_client import CollectorRegistry

from services.kit.inference.bundle import Array
from services.language.batch import Batch
from services.language.cache import Cache
from services.language.metrics import GenerationMetrics, ModelMetrics
from services.language.prefixes import Prefixes
from services.language.runs import Drawn, Draws

VOCAB = 97
LONGEST = 128


class FakeTokenizer:
    """Token n is the character 32 + n."""

    longest = 1

    def encode(self, text: str) -> list[int]:
        return [ord(character) - 32 for character in text]

    def decode(self, tokens: list[int], *, keep_special_tokens: bool = False) -> str:
        return "".join(chr(32 + token) for token in tokens)


class FakeRuns:
    """What the cache holds of a token is the token itself; the next one follows from all of them."""

    def __init__(self, rows: int = 8, longest: int = LONGEST) -> None:
        self.cache = Cache(2, 1, 1, rows * longest, longest, "float32", smallest=4)
        self.cross: Cache | None = None
        self.runs: list[tuple[int, int, int]] = []  # first slot, rows, steps
        self.fails = False

    def run(
        self, first: int, token_ids: Array, start: Array, draws: Draws, source_length: Array | None = None
    ) -> Drawn:
        if self.fails:
            raise RuntimeError("the device is gone")
        rows, steps = token_ids.shape
        self.runs.append((first, rows, steps))
        for row in range(rows):
            assert start[row] + steps <= self.cache.size
            assert (first + rows) * self.cache.size <= self.cache.capacity
            values = np.stack([token_ids[row], -token_ids[row]]).astype(np.float32)[:, np.newaxis, :, np.newaxis]
            self.cache.write(first + row, int(start[row]), values)
        tokens = [self._next(first, steps, start, int(index)) for index in draws.out_index]
        forced = draws.forced.tolist()
        tokens = [token if wish < 0 else wish for token, wish in zip(tokens, forced, strict=True)]
        token = np.array(tokens, np.int64)
        best = np.stack([token, (token + 1) % VOCAB], axis=1)
        return Drawn(token, -token.astype(np.float32), best, -best.astype(np.float32))

    def _next(self, first: int, steps: int, start: Array, index: int) -> int:
        row, step = divmod(index, steps)
        read = self.cache.read(first + row, 0, int(start[row]) + step + 1)
        return following(read[0, 0, :, 0].astype(int).tolist())


def following(tokens: Tokens[int]) -> int:
    """The token after these."""
    return (sum((at + 1) * token for at, token in enumerate(tokens)) + 7 * len(tokens)) % VOCAB


def written(prompt: Tokens[int], count: int) -> list[int]:
    """The tokens that follow a prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(following(tokens))
    return tokens[len(prompt) :]


def batch(runs: FakeRuns, prefix_bytes: int = 0) -> Batch:
    """A batch over a fake model."""
    return Batch(runs, 64, Prefixes(prefix_bytes))  # type: ignore[arg-type]


def metrics() -> ModelMetrics:
    """Of a model that nobody looks at."""
    return GenerationMetrics(CollectorRegistry()).of("fake", 1)
