"""Texts of models with an encoder: their sources are read together, and each gets what it gets alone."""

import random
from functools import partial

from services.language.batch import Batch
from services.language.sequence import Sequence
from tests.unit.language.fakes import FakeEncodedRuns, batch, written
from tests.unit.language.scheduling import during, scheduler, text, tokens


def sources(count: int) -> list[list[int]]:
    rng = random.Random(4)
    return [[rng.randrange(90) for _ in range(rng.randrange(1, 17))] for _ in range(count)]


async def test_sources_that_come_together_are_read_in_one_run() -> None:
    runs = FakeEncodedRuns()
    texts = [text([1], 10, source=source) for source in sources(4)]
    async with scheduler(runs) as made:
        made.submit(texts)
        assert [await tokens(one) for one in texts] == [written([1], 10, one.source or []) for one in texts]
    assert runs.encoded == [4]


async def test_no_run_reads_more_of_sources_than_of_prompts() -> None:
    first, texts = text([1], 60, source=[5]), [text([1], 10, source=[number] * 16) for number in range(3)]
    runs = during(FakeEncodedRuns(), (lambda: first.made, lambda: made.submit(texts)))
    async with scheduler(runs, chunk_tokens=33) as made:
        made.submit([first])
        for one in (first, *texts):
            assert await tokens(one) == written([1], one.limit, one.source or [])
    assert runs.encoded == [1, 2, 1]


def test_texts_whose_sources_share_the_memory_are_what_they_are_alone() -> None:
    rng = random.Random(2)
    for room in (1, 3, 8):
        work = batch(FakeEncodedRuns(sources=room * 16))
        waiting = [text([1, 2], rng.randrange(1, 30), source=source) for source in sources(60)]
        texts = list(waiting)
        while waiting or work.rows:
            while waiting and len(work.rows) < 8 and rng.random() < 0.8 and work.fits(waiting[-1]):
                work.join(waiting.pop())
            step(work)
        assert all(one.made == written([1, 2], one.limit, one.source or []) for one in texts)


def step(work: Batch) -> None:
    for run in (work.encode, partial(work.prefill, 64), work.decode):
        made = run()
        for one in made.news if made is not None else ():
            if one.finish is not None:
                work.remove(one.sequence)


def test_sources_are_part_of_what_is_reserved() -> None:
    work = batch(FakeEncodedRuns(rows=2, sources=48))
    one: Sequence = text([1], 10, source=[1] * 7)
    work.join(one)
    assert work.reserved == 1 + 10 + 7
    assert work.capacity == 2 * 128 + 48
