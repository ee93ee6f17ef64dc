"""Runs on a stand-in for a GPU: what the host computes, recorded or not, and nothing else that changes."""

import copy
import gc
import itertools
import random
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from services.kit.inference.recording import GPU
from services.language.engine.cuda import Cuda
from services.language.engine.cuda_storage import CudaStorage
from services.language.engine.drawn import Drawn
from services.language.engine.memory import caches
from services.language.engine.runs import Runs
from services.language.isolation import Isolation, RunFailed
from services.language.sampling import Sampling
from services.language.sequence import Finish, Sequence
from tests.unit.language.engine.cuda import Runtime
from tests.unit.language.engine.cuda import Session as GpuSession
from tests.unit.language.engine.shipped import SOURCES, batch, drawn, gpt, leave_no_numbers, texts, written
from tests.unit.language.scheduling import text, times


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


def test_prompts_that_are_read_by_recorded_runs_give_the_bits_of_the_host() -> None:
    """In pieces, side by side, beside texts that are written and behind what is known of them."""
    source = random.Random(8)
    prompts = [[source.randrange(3, 250) for _ in range(length)] for length in (200, 5, 17, 2, 60, 33, 100, 16)]

    def made(runs: Runs) -> list[list[tuple[int, bytes]]]:
        work, found = batch(runs), dict[Sequence, list[tuple[int, bytes]]]()
        for number, prompt in enumerate(prompts * 2):
            wishes = Sampling(temperature=1.0, seed=number) if number % 3 else Sampling(alternatives=number % 2)
            found[one := text(prompt, 6, sampling=wishes)] = []
            work.join(one)
            while len(work.rows) > (5 if len(found) < 2 * len(prompts) else 0):
                for run in (work.prefill(72), work.decode()):
                    for news in run.news if run is not None else []:
                        found[news.sequence] += [(one.token, np.float32(one.logprob).tobytes()) for one in news.chosen]
                        if news.finish is not None:
                            work.remove(news.sequence)
        return list(found.values())

    there = _on_gpu(gpt()[0], recorded=True)
    wanted = made(gpt()[0])
    assert made(there) == wanted
    read = [shape for shape in there._recorded if shape.steps > 1]
    assert {shape.size for shape in read} >= {64, 128, 256}  # also behind what was read before
    assert max(shape.rows for shape in read) > 1
    assert all(shape.staged and shape.steps >= 16 for shape in read)
    replayed = there._decoder.session.replayed
    assert made(there) == wanted
    assert there._decoder.session.replayed > replayed + 2 * len(prompts)


def test_what_a_text_left_that_is_no_number_spoils_no_prompt_after_it() -> None:
    """In the place where prompts are read, and as what fills a run up."""
    runs, (host, _) = _on_gpu(gpt()[0], recorded=True), gpt()
    long, short, other = [*range(3, 53)], [*range(60, 80)], [*range(90, 107)]

    def firsts(on: Runs, *prompts: list[int]) -> list[tuple[int, bytes]]:
        work = batch(on)
        for prompt in prompts:
            work.join(text(prompt, 1))
        made = work.prefill(128)
        assert made is not None
        return [(one.token, np.float32(one.logprob).tobytes()) for news in made.news for one in news.chosen]

    assert firsts(runs, long) == firsts(host, long)
    leave_no_numbers(runs, 1)
    assert firsts(runs, short, other) == firsts(host, short, other)
    read = [bound.given.arrays["token_ids"].tolist() for shape, bound in runs._recorded.items() if shape.steps > 1]
    assert read == [[[*long, *[0] * 14]], [[*short, *[0] * 12], [*other, *[0] * 15]]]
    assert firsts(runs, long[:33]) == firsts(host, long[:33])  # by the run of the first one, filled up
    (bound, *_) = (bound for shape, bound in runs._recorded.items() if shape.steps == 64)
    assert bound.given.arrays["token_ids"].tolist() == [[*long[:33], *[0] * 31]]


def test_more_prompts_than_there_is_a_place_for_are_read_in_the_cache() -> None:
    def made(runs: Runs) -> list[list[int]]:
        work = batch(runs)
        for number in range(5):
            work.join(text([*range(3 + number, 103 + number)], 3))
        work.prefill(500)
        return [row.made for row in work.rows]

    there = _on_gpu(gpt()[0], recorded=True)
    assert made(there) == made(gpt()[0])
    assert there._stage is not None
    assert there._stage.rows(128) < 5
    assert not there._recorded


def test_scores_on_a_gpu_are_those_of_the_host() -> None:
    """A run looks at more tokens than it has rows, for which nothing is recorded."""

    def scores(runs: Runs) -> list[bytes]:
        work = batch(runs)
        prompt = [1, *range(10, 40)]
        work.join(scored := text(prompt[:-1], 0, scored=prompt[2:]))
        found = []
        while scored.finish is None:
            made = work.prefill(128)
            assert made is not None
            found += [np.float32(one.logprob).tobytes() for news in made.news for one in news.chosen]
        return found

    found = scores(_on_gpu(gpt()[0], recorded=True))
    assert len(set(found)) > 20
    assert found == scores(gpt()[0])


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
    assert (len(made.seconds), runs.rows(5)) == (21, 6)  # one has begun when it is asked whether it goes on
    np.testing.assert_array_equal(runs.cache.read(5, 1, 40), before)
    assert (runs.cache.read(4, 1, 20) != before[:, :, :19]).any()


def test_a_text_that_ends_while_the_next_run_is_under_way_has_no_token_too_many() -> None:
    host, there = gpt()[0], _on_gpu(gpt()[0], recorded=True)
    wishes = [Sampling(temperature=1.3, seed=seed) for seed in (4, 5, 6)]
    free = written(batch(host), [text([1], 24, sampling=one) for one in wishes])
    ends = [frozenset({made[at][0]}) for made, at in zip(free, (6, 11, 12), strict=True)]

    def ended(runs: Runs) -> tuple[list[list[tuple[int, bytes]]], list[Finish | None]]:
        together = [
            text([1], 24, sampling=replace(one, stop_token_ids=end)) for one, end in zip(wishes, ends, strict=True)
        ]
        return written(batch(runs), together, 24), [one.finish for one in together]

    wanted = ended(host)
    assert wanted[1] == ["stop"] * 3
    assert [len(made) for made in wanted[0]] < [24] * 3
    assert ended(there) == wanted
    assert there.ahead == 2
    assert written(batch(there), [text([1], 24, sampling=one) for one in wishes], 24) == free


def test_runs_that_fail_while_others_are_under_way_are_made_again() -> None:
    runs = _on_gpu(gpt()[0], recorded=True)
    work, session = batch(runs), runs._decoder.session
    together = [text([1], 20, sampling=Sampling(temperature=1.3, seed=seed)) for seed in (4, 5)]
    for one in together:
        work.join(one)
    work.decode()
    asked = itertools.count(1)

    def goes_on() -> bool:
        session.fails = next(asked) == 4
        return True

    with pytest.raises(RunFailed) as failed:
        work.decode(goes_on=goes_on)
    assert failed.value.made is not None
    assert len(failed.value.made.seconds) == 4
    assert runs._cuda is not None
    assert not runs._cuda._runtime.asked  # nothing uses memory any longer that is given back
    session.fails = False
    while any(one.finish is None for one in together):
        work.decode(goes_on=times(5))
    wanted = written(batch(gpt()[0]), [text([1], 20, sampling=one.sampling) for one in together])
    assert [one.made for one in together] == [[token for token, _ in made] for made in wanted]


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_that_fails_behind_the_end_of_a_text_changes_nothing(count: int) -> None:
    """The text that has ended needed it no longer, and the other one gets its tokens by another run."""
    wishes = [Sampling(temperature=1.3, seed=seed) for seed in (4, 5)][:count]
    free = [[token for token, _ in made] for made in written(batch(gpt()[0]), [_long(one) for one in wishes])]
    end = free[0][6]
    assert end not in free[0][:6]
    wishes[0] = replace(wishes[0], stop_token_ids=frozenset({end}))
    runs = _on_gpu(gpt()[0], recorded=True)
    work, together = batch(runs), [_long(one) for one in wishes]
    for one in together:
        work.join(one)
    work.decode()
    ended, failing = runs.ended, iter([True])

    def failing_behind_the_end() -> Drawn:
        if ahead and ahead[-1] == end and next(failing, False):
            raise RuntimeError("no memory")
        drawn = ended()
        ahead.append(drawn.tokens[0])
        return drawn

    ahead: list[int] = []
    runs.ended = failing_behind_the_end  # type: ignore[method-assign]
    failed: list[RunFailed] = []
    made, lost = Isolation(work, failed.append).decode(lambda: True)
    assert [one.slots for one in failed] == [[1][: count - 1]]
    assert lost == []
    assert together[0].made == free[0][:7]
    assert together[0].finish == "stop"
    assert [news.sequence for run in made for news in run.news if news.finish is not None] == [together[0]]
    work.remove(together[0])
    while work.rows:
        if work.decode(goes_on=times(3)) is not None and together[-1].finish is not None:
            work.remove(together[-1])
    assert [one.made for one in together[1:]] == free[1:]


def test_what_nobody_has_looked_at_is_taken_for_no_other_run() -> None:
    runs, one = _on_gpu(gpt()[0], recorded=True), _long(Sampling(temperature=1.3, seed=4))
    work, asked = batch(runs), itertools.count(1)
    work.join(one)
    work.decode()

    def broken() -> bool:
        if next(asked) == 3:
            raise RuntimeError("no time")
        return True

    with pytest.raises(RunFailed):
        work.decode(goes_on=broken)
    while one.finish is None:
        work.decode(goes_on=times(4))
    (wanted,) = written(batch(gpt()[0]), [_long(one.sampling)])
    assert one.made == [token for token, _ in wanted]


def test_nothing_holds_what_was_bound_once_it_is_given_back() -> None:
    runs = _on_gpu(gpt()[0], recorded=True)
    work = batch(runs)
    work.join(text([3], 30))
    work.decode()
    work.decode(goes_on=times(5))
    bound = [weakref.ref(one) for one in (*runs._bound.values(), *runs._recorded.values())]
    assert runs._cuda is not None
    assert runs._cuda._runtime.events
    runs.close()
    gc.collect()
    assert not runs._cuda._runtime.events
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


def _long(wishes: Sampling) -> Sequence:
    return text([1], 24, sampling=wishes)


def undisturbed(runs: Runs, wishes: Sampling) -> Sequence:
    return text([1], 16, source=SOURCES[0] if runs.cross is not None else None, sampling=wishes)


def _on_gpu(runs: Runs, *, recorded: bool) -> Runs:
    """The same on a stand-in for a GPU."""
    runtime, decoder = Runtime(), copy.copy(runs._decoder)
    decoder._session, decoder.recorded = GpuSession(decoder._session, runtime, shared=recorded), recorded
    cuda = Cuda(runtime, 0)
    generation = runs._generation
    memory = caches(generation, 8, 8, "on a GPU", blank=partial(CudaStorage, cuda), recorded=recorded)
    return Runs(generation, decoder, memory.texts, runs._encoder, memory.sources, memory.stage, cuda=cuda)
