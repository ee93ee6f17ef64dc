"""Runs over the graphs of bundles that are shipped, and texts for them."""

from typing import Any

import numpy as np

from services.kit.inference import bundle as bundles
from services.kit.inference.engine import Engine, EngineSettings
from services.kit.inference.manifest import Generation
from services.language import graph
from services.language.__main__ import BUNDLES
from services.language.batch import Batch
from services.language.engine.cache import Cache
from services.language.engine.memory import caches
from services.language.engine.runs import Runs
from services.language.sampling import Sampling
from services.language.sequence import Sequence
from tests.unit.language.scheduling import text, times

SOURCES = [list(range(2, 2 + length)) for length in (3, 40, 1, 17, 9)]


class Session:
    """ONNX Runtime's, which can be told to fail after it has computed."""

    def __init__(self, session: Any) -> None:
        self._session, self.fails = session, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        self._session.run_with_iobinding(binding)
        if self.fails:
            raise RuntimeError("no memory")


class Watched(Engine):
    """With such a session."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._session = Session(self._session)


def spoil(cache: Cache) -> None:
    """Something is in it that nobody wrote."""
    storage = cache.storage
    storage.fill(np.full_like(storage.array(), 7.0))


def leave_no_numbers(runs: Runs, rows: int) -> None:
    """As a run of so many rows may, in the place of beginnings."""
    stage = runs._stage
    assert stage is not None
    blocks, (_, heads, room, width) = 2 * runs._generation.layers, stage.shape(rows)
    for row in range(rows):
        stage.write(row, 0, np.full((blocks, heads, room, width), np.nan, np.float32))


def gpt() -> tuple[Runs, Generation]:
    """Those of a bundle without an encoder, with a place for beginnings."""
    bundle = bundles.load(BUNDLES / "python-gpt" / "1")
    generation = bundle.manifest.generation
    assert generation is not None
    decoder = Engine(bundle.path / bundles.MODEL, EngineSettings(device="cpu", threads=1))
    cache, _, stage, _ = caches(generation, 64, 8, "gpt")
    return Runs(generation, decoder, cache, stage=stage), generation


def batch(runs: Runs, most_scored: int = 8) -> Batch:
    return Batch(runs, graph.candidates(runs._generation), None, most_scored)


def texts() -> list[Sequence]:
    return [text([1], 8, source=source) for source in SOURCES]


def written(work: Batch, together: list[Sequence], runs: int = 1) -> list[list[tuple[int, bytes]]]:
    """Tokens and log-probabilities, to the bit, of texts that join at once; so many runs in a row and what has begun"""
    found: dict[Sequence, list[tuple[int, bytes]]] = {one: [] for one in together}
    for one in together:
        work.join(one)
    work.encode()
    while work.rows:
        made = work.decode(goes_on=times(runs))
        assert made is not None
        assert len(made.seconds) < runs + (work._runs.ahead if runs > 1 else 1)
        for news in made.news:
            found[news.sequence] += [(one.token, np.float32(one.logprob).tobytes()) for one in news.chosen]
            if news.finish is not None:
                work.remove(news.sequence)
    return list(found.values())


def drawn(*, source: bool = True) -> list[Sequence]:
    """Texts of many wishes and lengths."""
    wishes = (
        Sampling(temperature=1.3, seed=4),
        Sampling(temperature=0.8, top_k=5, top_p=0.9, min_p=0.01, seed=5),
        Sampling(temperature=1.0, repetition_penalty=1.4, frequency_penalty=0.3, seed=6),
        Sampling(logit_bias={3: 5.0, 7: -2.0}),
        Sampling(),
    )
    return [
        text([1], 9 + number, source=SOURCES[number] if source else None, sampling=one)
        for number, one in enumerate(wishes)
    ]
