"""A model that can be computed by hand, over real caches, and a tokenizer whose tokens are characters."""

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Tokens

import numpy as np
from prometheus_client import CollectorRegistry

from services.kit.inference.bundle import Array
from services.language.batch import Batch
from services.language.engine.cache import Cache
from services.language.engine.drawn import Drawn, Draws
from services.language.engine.prefixes import BLOCK, Prefixes
from services.language.metrics import GenerationMetrics, ModelMetrics

VOCAB = 97
LONGEST = 128


class FakeTokenizer:
    """Token n is the character 32 + n."""

    longest = 1

    def encode(self, text: str) -> list[int]:
        return [ord(character) - 32 for character in text]

    def decode(self, tokens: list[int], *, keep_special_tokens: bool = False) -> str:
        return "".join(chr(32 + token) for token in tokens)

    def alone(self, token: int) -> str | None:
        return None


class FakeRuns:
    """What the cache holds of a token is the token itself; the next one follows from all of them."""

    def __init__(self, rows: int = 8, longest: int = LONGEST) -> None:
        self.cache = Cache(2, 1, 1, rows * longest, longest, "FP32", smallest=4)
        self.cross: Cache | None = None
        self.runs: list[tuple[int, int, int]] = []  # first slot, rows, steps
        self.fails = False
        self.fail_next = 0  # runs
        self.refused: int | None = None  # no run with a text that has this token
        self.most: int | None = None  # no run with more tokens than that
        self.draws: list[int] = []  # of each run
        self.ahead = 1
        self._begun = deque[Drawn]()
        self._last: tuple[int, Tokens[int], Draws, Array | None, Drawn] | None = None

    def run(
        self,
        first: int,
        token_ids: Tokens[Tokens[int]],
        start: Tokens[int],
        draws: Draws,
        source_length: Array | None = None,
    ) -> Drawn:
        rows, steps = len(token_ids), max(map(len, token_ids))
        if self._last is not None:
            self._last[-1].top_tokens[:] = self._last[-1].top_logprobs[:] = -1  # they count no longer
        if self.fails or self.fail_next:
            self.fail_next = max(0, self.fail_next - 1)
            raise RuntimeError("the device is gone")
        if self.refused is not None and any(self._has(self.refused, first, token_ids, start)):
            self._spoil(first, steps, start)
            raise RuntimeError("no memory for this one")
        if self.most is not None and rows * steps > self.most:
            self._spoil(first, steps, start)
            raise RuntimeError("no memory for so much")
        self.runs.append((first, rows, steps))
        self.draws.append(len(draws.wishes.out_index))
        for row in range(rows):
            assert start[row] + steps <= self.cache.size
            assert (first + rows) * self.cache.size <= self.cache.capacity
            padded = np.array([*token_ids[row], *[0] * (steps - len(token_ids[row]))], np.float32)
            self.cache.write(first + row, start[row], np.stack([padded, -padded])[:, np.newaxis, :, np.newaxis])
        tokens = [self._next(first, steps, start, int(index)) for index in draws.wishes.out_index]
        forced = draws.wishes.forced.tolist()
        tokens = [token if wish < 0 else wish for token, wish in zip(tokens, forced, strict=True)]
        token = np.array(tokens, np.int64)
        best = np.stack([token, (token + 1) % VOCAB], axis=1)
        drawn = Drawn(tokens, (-token.astype(np.float32)).tolist(), best, -best.astype(np.float32))
        self._last = first, start, draws, source_length, drawn
        return drawn

    def begin(self, uniform: Tokens[float] = ()) -> None:
        assert self._last is not None
        first, start, draws, lengths, drawn = self._last
        draws = Draws(draws.wishes, uniform or draws.uniform)
        self._begun.append(
            self.run(first, [[token] for token in drawn.tokens], [at + 1 for at in start], draws, lengths)
        )

    def ended(self) -> Drawn:
        return self._begun.popleft()

    def rows(self, rows: int) -> int:
        return rows

    def _has(self, token: int, first: int, token_ids: Tokens[Tokens[int]], start: Tokens[int]) -> Iterator[bool]:
        for row, tokens in enumerate(token_ids):
            yield token in tokens or token in self.cache.read(first + row, 0, start[row])[0]

    def _spoil(self, first: int, steps: int, start: Tokens[int]) -> None:
        """What a run that fails may leave behind what was in the cache before."""
        for row, at in enumerate(start):
            self.cache.write(first + row, at, np.full((2, 1, steps, 1), 55, np.float32))

    def _next(self, first: int, steps: int, start: Tokens[int], index: int) -> int:
        row, step = divmod(index, steps)
        read = self.cache.read(first + row, 0, start[row] + step + 1)
        return following(read[0, 0, :, 0].astype(int).tolist())


def following(tokens: Tokens[int]) -> int:
    """The token after these."""
    return (sum((at + 1) * token for at, token in enumerate(tokens)) + 7 * len(tokens)) % VOCAB


def written(prompt: Tokens[int], count: int, source: Tokens[int] = ()) -> list[int]:
    """The tokens that follow a prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append((following(tokens) + following(source)) % VOCAB)
    return tokens[len(prompt) :]


class FakeEncodedRuns(FakeRuns):
    """With an encoder: the cross cache holds the tokens of the source, and the next token follows from both."""

    def __init__(self, rows: int = 8, longest: int = LONGEST, sources: int = 8 * 16) -> None:
        super().__init__(rows, longest)
        self.cross = Cache(2, 1, 1, sources, 16, "FP32", smallest=2)
        self.encoded: list[int] = []  # sources in each run of the encoder

    def encode(self, first: int, sources: Tokens[Tokens[int]]) -> None:
        assert self.cross is not None
        if self.fails or any(self.refused in source for source in sources):
            raise RuntimeError("no memory for this one")
        self.encoded.append(len(sources))
        assert (first + len(sources)) * self.cross.size <= self.cross.capacity
        for row, source in enumerate(sources):
            values = np.stack([np.array(source), np.array(source)]).astype(np.float32)[:, np.newaxis, :, np.newaxis]
            self.cross.write(first + row, 0, values)

    def run(
        self,
        first: int,
        token_ids: Tokens[Tokens[int]],
        start: Tokens[int],
        draws: Draws,
        source_length: Array | None = None,
    ) -> Drawn:
        assert source_length is not None
        assert self.cross is not None
        self._lengths = source_length
        assert (first + len(token_ids)) * self.cross.size <= self.cross.capacity
        return super().run(first, token_ids, start, draws, source_length)

    def _next(self, first: int, steps: int, start: Tokens[int], index: int) -> int:
        assert self.cross is not None
        row, _ = divmod(index, steps)
        source = self.cross.read(first + row, 0, int(self._lengths[row]))
        return (super()._next(first, steps, start, index) + following(source[0, 0, :, 0].astype(int).tolist())) % VOCAB


def batch(runs: FakeRuns, prefix_bytes: int = 0, most_scored: int = 512, speculative: int = 0) -> Batch:
    """A batch over a fake model."""
    blocks = prefix_bytes // (BLOCK * Cache.token_bytes(2, 1, 1, "FP32"))
    kept = Cache(2, 1, 1, blocks * BLOCK, BLOCK, "FP32", BLOCK) if blocks and runs.cross is None else None
    prefixes = Prefixes(runs.cache, kept) if kept is not None else None
    return Batch(runs, 64, prefixes, most_scored, speculative)  # type: ignore[arg-type]


def metrics() -> ModelMetrics:
    """Of a model that nobody looks at."""
    return GenerationMetrics(CollectorRegistry()).of("fake", 1)
