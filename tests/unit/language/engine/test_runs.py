"""Runs over the graphs of a bundle that is shipped, and caches with something in them."""

import contextlib
import random
from dataclasses import replace

import numpy as np
import pytest

from services.language.engine.bound import Bound
from services.language.engine.cache import Cache
from services.language.engine.runs import Runs
from services.language.isolation import RunFailed
from tests.unit.language.engine.shipped import SOURCES, batch, gpt, leave_no_numbers, spoil, texts, written
from tests.unit.language.scheduling import text


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


@pytest.mark.parametrize("seen", ["drawn", "not drawn", "raised"])
@pytest.mark.parametrize("lengths", [(17, 30), (70, 90)])
def test_beginnings_find_nothing_that_is_no_number_in_their_place(
    seen: str, lengths: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, _ = gpt()
    expected = first_tokens(runs, lengths)
    own = Bound.run

    def run(bound: Bound) -> None:
        own(bound)
        leave_no_numbers(runs, len(bound.given.arrays["start"]))
        if seen == "drawn":
            bound.found.arrays["logprob"][:] = np.nan
        if seen == "raised":
            raise RuntimeError("after it was computed")

    with monkeypatch.context() as patch:
        patch.setattr(Bound, "run", run)
        with contextlib.suppress(RunFailed):
            first_tokens(runs, (70, 90), 64 if seen == "not drawn" else 256)
    assert first_tokens(runs, lengths) == expected
    assert any(shape.staged for shape in runs._bound)


def test_the_place_of_beginnings_is_left_alone_where_it_has_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, _ = gpt()
    assert runs._stage is not None
    monkeypatch.setattr(runs._stage, "clear", lambda *_: pytest.fail("cleared"))
    assert first_tokens(runs) == first_tokens(runs)
    runs._generation = replace(runs._generation, precision="FP16")  # whose numbers may overflow unseen
    first_tokens(runs)
    with pytest.raises(pytest.fail.Exception):
        first_tokens(runs)


def test_a_text_that_leaves_before_its_first_token_leaves_nothing_in_its_slot() -> None:
    runs, _ = gpt()
    expected = written(batch(runs), [text([5], 9)])
    work = batch(runs)
    work.join(gone := text([*range(3, 40)], 20))
    work.prefill(20)
    runs.cache.storage.fill(np.full_like(runs.cache.storage.array(), np.nan))
    work.remove(gone)
    assert written(work, [text([5], 9)]) == expected


def first_tokens(runs: Runs, lengths: tuple[int, int] = (17, 30), budget: int = 256) -> list[list[int]]:
    """Of two beginnings beside a text that has more room."""
    work = batch(runs)
    runs.cache.empty(512)
    work._settle = lambda *_: None  # type: ignore[method-assign]
    for length in lengths:
        work.join(text([*range(3, 3 + length)], 2))
    work.prefill(budget)
    return [row.made for row in work.rows]


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
