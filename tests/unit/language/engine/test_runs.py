"""Runs over the graphs of a bundle that is shipped, and caches with something in them."""

import copy
import gc
import random
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest

from services.kit.inference import bundle as bundles
from services.kit.inference.engine import Engine, EngineSettings
from services.kit.inference.manifest import ENCODER, Generation
from services.kit.inference.recording import GPU
from services.language import graph
from services.language.__main__ import BUNDLES
from services.language.batch import Batch
from services.language.engine.cache import Cache
from services.language.engine.cuda import Cuda
from services.language.engine.cuda_storage import CudaStorage
from services.language.engine.memory import caches
from services.language.engine.runs import Runs
from services.language.isolation import RunFailed
from services.language.sampling import Sampling
from services.language.sequence import Sequence
from tests.unit.language.engine.cuda import Runtime
from tests.unit.language.engine.cuda import Session as GpuSession
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


@pytest.fixture
def runs() -> Runs:
    bundle = bundles.load(BUNDLES / "dates-transformer" / "1")
    generation = bundle.manifest.generation
    assert generation is not None
    settings = EngineSettings(device="cpu", threads=1)
    decoder, encoder = Watched(bundle.path / bundles.MODEL, settings), Engine(bundle.path / ENCODER, settings)
    cache, cross, _, _ = caches(generation, 8, 8, "dates")
    assert cross is not None
    for memory in (cache, cross):
        spoil(memory)
    return Runs(generation, decoder, cache, encoder, cross)


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
    """Tokens and log-probabilities, to the bit, of texts that join at once; at most so many runs in a row."""
    found: dict[Sequence, list[tuple[int, bytes]]] = {one: [] for one in together}
    for one in together:
        work.join(one)
    work.encode()
    while work.rows:
        made = work.decode(goes_on=times(runs))
        assert made is not None
        assert len(made.seconds) <= runs
        for news in made.news:
            found[news.sequence] += [(one.token, np.float32(one.logprob).tobytes()) for one in news.chosen]
            if news.finish is not None:
                work.remove(news.sequence)
    return list(found.values())


def test_sources_that_are_read_together_give_the_bits_that_they_give_alone(runs: Runs) -> None:
    together = written(batch(runs), texts())
    assert together == [written(batch(runs), [one])[0] for one in texts()]
    assert len({tuple(found) for found in together}) > 1


@pytest.mark.parametrize("most", [1, 3, 7])
def test_a_score_has_the_same_bits_however_many_tokens_a_run_looks_at(runs: Runs, most: int) -> None:
    def scores(most: int) -> list[bytes]:
        work, tokens = batch(runs, most), [1, *range(10, 24)]
        work.join(scored := text(tokens[:-1], 0, source=SOURCES[1], scored=tokens[2:]))
        work.encode()
        found = []
        while scored in work.rows:
            made = work.prefill(128)
            assert made is not None
            assert len(made.news) <= most
            found += [np.float32(one.logprob).tobytes() for news in made.news for one in news.chosen]
            if scored.finish is not None:
                work.remove(scored)
        return found

    whole = scores(64)
    assert len(set(whole)) > 5
    assert scores(most) == whole


def test_texts_go_on_to_the_bit_after_a_run_that_failed(runs: Runs) -> None:
    whole = written(batch(runs), texts())
    work, session = batch(runs), runs._decoder.session
    for one in texts():
        work.join(one)
    work.encode()
    tokens: list[list[int]] = [[] for _ in SOURCES]
    rows = list(work.rows)
    for step in range(8):
        session.fails = True
        with pytest.raises(RunFailed):
            work.decode()
        session.fails = False
        for slots in ([0, 1], [2, 3, 4]) if step % 2 else (None,):
            made = work.decode(slots)
            assert made is not None
            for news in made.news:
                tokens[rows.index(news.sequence)] += [one.token for one in news.chosen]
    for found, expected in zip(tokens, whole, strict=True):
        assert found[: len(expected)] == [token for token, _ in expected]


def test_what_was_bound_for_a_run_that_failed_is_not_used_again(runs: Runs) -> None:
    work, session = batch(runs), runs._decoder.session
    work.join(texts()[0])
    work.encode()
    work.decode()
    (shape,) = runs._bound
    bound = runs._bound[shape]
    session.fails = True
    with pytest.raises(RunFailed):
        work.decode()
    assert runs._bound == {}
    session.fails = False
    work.decode()
    assert runs._bound[shape] is not bound


def test_the_probe_runs_both_graphs_beside_the_texts(runs: Runs) -> None:
    work = batch(runs)
    kept, gone = texts()[:2]
    alone = written(batch(runs), [texts()[0]])[0]
    for one in (kept, gone):
        work.join(one)
    work.encode()
    work.remove(gone, keep=False)
    work.probe()
    while kept in work.rows:
        made = work.decode()
        assert made is not None
        if made.news[0].finish is not None:
            work.remove(kept)
    assert kept.made == [token for token, _ in alone]


@pytest.mark.parametrize("recorded", [False, True])
def test_texts_on_a_gpu_are_those_of_the_host(runs: Runs, *, recorded: bool) -> None:
    """By a stand-in for a GPU, on the CPU: whatever changes between two runs gets there, and nothing else changes."""
    for here in (runs, gpt()[0]):
        there = _on_gpu(here, recorded=recorded)
        wanted, got = (
            written(batch(one), [*texts()[:3], *drawn()] if one.cross is not None else drawn(source=False))
            + (written(batch(one), drawn(source=False)[:2]) if one.cross is None else [])  # without changed logits
            for one in (here, there)
        )
        assert wanted == got
        assert len(set(map(tuple, wanted))) > 3
        plain = (Sampling(temperature=1.3, seed=4), Sampling(), Sampling(temperature=0.7, top_k=9, seed=2))
        for count in (1, 5):  # without a row that is nobody's where it is recorded, and with one
            in_a_row = [
                written(batch(one), [undisturbed(one, wishes) for wishes in (plain * 2)[:count]], runs)
                for one, runs in ((here, 1), (here, 5), (there, 1), (there, 5))
            ]
            assert in_a_row[1:] == in_a_row[:1] * 3
        assert (there._decoder.session.replayed > 3) == (recorded and here.cross is None)


def test_what_is_recorded_writes_over_no_text_beside_it() -> None:
    here, _ = gpt()
    there = _on_gpu(here, recorded=True)
    source = random.Random(4)
    long = [source.randrange(3, 250) for _ in range(90)]

    def made(runs: Runs) -> list[list[int]]:
        """Five texts are written, for which six rows are recorded; in the sixth one a prompt is read meanwhile."""
        work = batch(runs)
        for _ in range(5):
            work.join(text([3], 12))
        work.decode()
        work.join(text(long, 12))
        rows = list(work.rows)
        while work.rows:
            for run in (work.prefill(20), work.decode()):
                for news in run.news if run is not None else []:
                    if news.finish is not None:
                        work.remove(news.sequence)
        return [row.made for row in rows]

    assert [there.rows(count) for count in (1, 3, 5, 7, 8, 9)] == [1, 3, 6, 8, 8, 12]
    there.cache.empty(512)
    assert [there.rows(count) for count in (4, 5, 7, 8)] == [4, 6, 8, 8]  # 8 * 512 tokens are all there is
    assert there.rows(9) == 9
    there.cache.empty(64)
    assert made(there) == made(here)
    assert there._decoder.session.replayed > 3
    assert {shape.rows for shape in there._recorded} == {1, 6}


def test_rows_that_are_nobodys_stay_where_they_are_while_runs_follow_one_another() -> None:
    runs = _on_gpu(gpt()[0], recorded=True)
    work = batch(runs)
    for seed in range(5):
        work.join(text([3], 30, sampling=Sampling(temperature=1.0, seed=seed)))
    work.decode()
    before = runs.cache.read(5, 1, 40)
    made = work.decode(goes_on=times(20))
    assert made is not None
    assert (len(made.seconds), runs.rows(5)) == (20, 6)
    np.testing.assert_array_equal(runs.cache.read(5, 1, 40), before)
    assert (runs.cache.read(4, 1, 20) != before[:, :, :19]).any()


def test_nothing_holds_what_was_bound_once_it_is_given_back() -> None:
    runs = _on_gpu(gpt()[0], recorded=True)
    work = batch(runs)
    work.join(text([3], 30))
    work.decode()
    work.decode(goes_on=times(5))
    bound = [weakref.ref(one) for one in (*runs._bound.values(), *runs._recorded.values())]
    runs.close()
    gc.collect()
    assert bound
    assert [one() for one in bound] == [None] * len(bound)


def test_rows_behind_the_first_ones_are_not_filled_up() -> None:
    runs = _on_gpu(gpt()[0], recorded=True)
    work = batch(runs)
    for _ in range(8):
        work.join(text([3], 12))
    runs.cache.empty(512)  # for no row more
    work._settle = lambda *_: None  # type: ignore[method-assign]
    made = work.decode([3, 4, 5, 6, 7])
    assert made is not None
    assert made.rows == 5


def test_a_run_is_recorded_anew_after_one_that_failed() -> None:
    runs = _on_gpu(gpt()[0], recorded=True)
    work, session = batch(runs), runs._decoder.session
    work.join(text([3], 12))
    work.decode()
    session.fails = True
    with pytest.raises(RunFailed):
        work.decode()
    session.fails = False
    work.decode()
    work.decode()
    assert (len(session.recorded), session.replayed) == (2, 1)


def test_a_run_beside_others_on_the_gpu_is_recorded_later() -> None:
    runs = _on_gpu(gpt()[0], recorded=True)
    work, session = batch(runs), runs._decoder.session
    work.join(text([3], 12))
    with GPU.using():
        work.decode()
        assert session.recorded == {}
    work.decode()
    assert len(session.recorded) == 1


def test_a_run_that_cannot_be_recorded_is_made_all_the_same_and_recorded_later() -> None:
    on_host = written(batch(gpt()[0]), [text([3], 12)])
    for failing, recorded in ((1, 1), (2, 0)):
        runs = _on_gpu(gpt()[0], recorded=True)
        session = runs._decoder.session
        session.fails_to_record = failing
        assert written(batch(runs), [text([3], 12)]) == on_host
        assert (session.fails_to_record, len(session.recorded)) == (0, recorded)


def test_a_text_that_overflows_leaves_nothing_to_the_next_one_in_its_slot() -> None:
    runs, generation = gpt()
    expected = written(batch(runs), [text([5], 9)])
    work = batch(runs)
    work.join(spoilt := text([3], 20))
    for _ in range(3):
        work.decode()
    places = (2 * generation.layers, generation.kv_heads, 1, generation.head_dim)
    runs.cache.write(0, 2, np.full(places, np.nan, np.float32))
    made = work.decode()
    assert made is not None
    assert np.isnan(made.news[0].chosen[0].logprob)
    work.remove(spoilt)
    assert written(work, [text([5], 9)]) == expected


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


def undisturbed(runs: Runs, wishes: Sampling) -> Sequence:
    return text([1], 16, source=SOURCES[0] if runs.cross is not None else None, sampling=wishes)


def _on_gpu(runs: Runs, *, recorded: bool) -> Runs:
    """The same on a stand-in for a GPU."""
    runtime, decoder = Runtime(), copy.copy(runs._decoder)
    decoder._session, decoder.recorded = GpuSession(decoder._session, runtime, shared=recorded), recorded
    cuda = Cuda(runtime, 0)
    generation = runs._generation
    memory = caches(generation, 8, 8, "on a GPU", blank=partial(CudaStorage, cuda))
    return Runs(generation, decoder, memory.texts, runs._encoder, memory.sources, memory.stage, cuda=cuda)


def test_a_beginning_that_is_longer_than_the_place_for_them_is_read_in_the_cache() -> None:
    whole, generation = gpt()
    small = Cache(2 * generation.layers, generation.kv_heads, generation.head_dim, 64, 64, "FP32")

    def first(stage: Cache | None) -> tuple[list[list[int]], set[int]]:
        runs = Runs(generation, whole._decoder, whole.cache, stage=stage)
        work = batch(runs)
        for length in (300, 64, 65):  # beside the first one there is more room than they need
            work.join(text([*range(3, 3 + length)], 2))
            work.prefill(512)
        return [row.made for row in work.rows], {shape.steps for shape in runs._bound if shape.staged}

    assert first(None)[1] == set()
    assert first(small) == (first(None)[0], {64})


def test_beginnings_that_are_read_apart_give_the_bits_that_they_give_in_the_cache() -> None:
    whole, generation = gpt()
    decoder, cache, stage = whole._decoder, whole.cache, whole._stage
    assert stage is not None
    spoil(stage)
    source = random.Random(4)
    long, *short = ([source.randrange(3, 250) for _ in range(length)] for length in (200, 5, 60, 17))

    def made(prompts: list[list[int]], stage: Cache | None) -> tuple[list[list[tuple[int, bytes]]], set[bool]]:
        runs = Runs(generation, decoder, cache, stage=stage)
        work, found = batch(runs), {}
        work.join(text(long, 30))
        while work.rows[0].to_read > 1:
            work.prefill(128)
        for one in [text(prompt, 6) for prompt in prompts]:
            found[one] = list[tuple[int, bytes]]()
            work.join(one)
        while len(work.rows) > 1:
            for run in (work.prefill(256), work.decode()):
                for news in run.news if run is not None else []:
                    if news.sequence in found:
                        found[news.sequence] += [(one.token, np.float32(one.logprob).tobytes()) for one in news.chosen]
                    if news.finish is not None:
                        work.remove(news.sequence)
        return list(found.values()), {shape.staged for shape in runs._bound if shape.steps > 1}

    apart, used = made(short, stage)
    assert used == {True, False}  # the second piece of the long one is read where the first one is
    assert apart == [made([prompt], None)[0][0] for prompt in short]
