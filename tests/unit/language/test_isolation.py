"""A run that fails costs the texts that no run can take, and nobody else."""

import asyncio

import pytest

from services.kit.errors import TriviumError
from services.language.isolation import AGAIN, Limit, RunFailed
from tests.unit.language.fakes import FakeEncodedRuns, FakeRuns, batch, written
from tests.unit.language.scheduling import Counted, during, scheduler, text, tokens

REFUSED = 90


async def ends(*texts: object) -> list[object]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*map(tokens, texts), return_exceptions=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_run_that_fails_once_costs_nobody_a_text(begun: bool) -> None:
    counted, texts = Counted(), [text([number, 3], 20) for number in range(4)]
    runs = during(FakeRuns(), (lambda: all(len(one.made) > 4 for one in texts) if begun else True, lambda: fail(runs)))
    async with scheduler(runs, counted) as made:
        made.submit(texts)
        assert await ends(*texts) == [written([number, 3], 20) for number in range(4)]
        assert counted.failed_runs == 1
        assert (made.statistics.success.count, made.statistics.fail.count) == (4, 0)


def fail(runs: FakeRuns) -> None:
    runs.fail_next = 1


def making(token: int) -> list[int]:
    """A prompt after which the token is made, not at once."""
    prompts = ([first, second] for first in range(50) for second in range(50))
    return next(prompt for prompt in prompts if token in written(prompt, 12)[3:])


@pytest.mark.parametrize("prompt", [[REFUSED, 1], [1, 2, REFUSED, 4, 5, 6, 7, 8], making(REFUSED)])
async def test_a_text_that_no_run_can_take_ends_alone_and_says_so(prompt: list[int]) -> None:
    runs, counted = FakeRuns(), Counted()
    runs.refused = REFUSED
    prompts = [[number, 3] for number in range(50) if REFUSED not in written([number, 3], 20)][:4]
    others, after = [text(good, 20) for good in prompts[:3]], text(prompts[3], 20)
    async with scheduler(runs, counted, max_queue=8) as made:
        bad = text(prompt, 20)
        made.submit([others[0], bad, *others[1:]])
        found = await ends(others[0], bad, *others[1:])
        failure = found.pop(1)
        assert found == [written(good, 20) for good in prompts[:3]]
        assert isinstance(failure, TriviumError)
        assert (failure.reason, failure.metadata, failure.executed) == ("INTERNAL", {"stage": "compute"}, "unknown")
        assert counted.value("texts_total", reason="failed") == 1
        assert counted.failed_runs >= 1
        assert (made.statistics.success.count, made.statistics.fail.count) == (3, 1)
        made.submit([after])
        assert await ends(after) == [written(prompts[3], 20)]


async def test_what_was_made_of_a_text_before_it_failed_is_told_before_that() -> None:
    runs = FakeRuns()
    runs.refused = REFUSED
    prompt = next([first, 4] for first in range(97) if written([first, 4], 1) == [REFUSED])
    async with scheduler(runs) as made:
        bad = text(prompt, 20)
        made.submit([bad])
        await bad.woken.wait()
        piece = bad.next()
        assert piece is not None
        assert [chosen.token for chosen in piece.tokens] == [REFUSED]
        with pytest.raises(TriviumError):
            await tokens(bad)


async def test_many_bad_texts_in_a_row_do_not_end_the_service_of_good_ones() -> None:
    runs = FakeRuns()
    runs.refused = REFUSED
    async with scheduler(runs, max_queue=32) as made:
        texts = [text([REFUSED if number % 3 else number], 4) for number in range(30)]
        made.submit(texts)
        for one, found in zip(texts, await ends(*texts), strict=True):
            assert isinstance(found, TriviumError) if REFUSED in one.prompt else found == written(one.prompt, 4)


async def test_a_source_that_cannot_be_read_ends_its_text_alone() -> None:
    runs, counted = FakeEncodedRuns(), Counted()
    runs.refused = REFUSED
    async with scheduler(runs, counted) as made:
        texts = [text([1], 8, source=source) for source in ([5, 6], [7, REFUSED, 8], [9] * 16)]
        made.submit(texts)
        good, bad, other = await ends(*texts)
        assert isinstance(bad, TriviumError)
        assert (good, other) == (written([1], 8, [5, 6]), written([1], 8, [9] * 16))
    assert counted.failed_runs == 3  # all, the last two, and the one alone


async def test_so_many_texts_as_the_engine_cannot_run_together_are_run_in_groups_and_not_tried_each_time() -> None:
    runs, counted, texts = FakeRuns(), Counted(), [text([number, 3], 60) for number in range(4)]
    runs.most = 3
    async with scheduler(runs, counted) as made:
        made.submit(texts)
        assert await ends(*texts) == [written([number, 3], 60) for number in range(4)]
    assert counted.failed_runs == 4  # three with prompts, and one with a token of each
    assert sum(rows == 2 and steps == 1 for _, rows, steps in runs.runs) > 100


async def test_a_prompt_that_is_too_much_for_one_run_is_read_in_smaller_pieces() -> None:
    runs, counted, prompt = FakeRuns(longest=256), Counted(), list(range(50)) * 4
    runs.most = 7
    async with scheduler(runs, counted) as made:
        made.submit([long := text(prompt, 4)])
        assert await ends(long) == [written(prompt, 4)]
    assert counted.failed_runs < 12
    assert max(steps for _, _, steps in runs.runs) >= 4


def test_larger_runs_are_tried_again_after_many_that_went_well() -> None:
    limit = Limit()
    assert limit.within(32) == 32
    limit.failed(32)
    for _ in range(AGAIN):
        assert limit.within(32) == 16
        limit.went_well()
    assert limit.within(32) == 32
    limit.failed(1)
    assert limit.within(32) == 1


def test_nothing_of_a_text_that_failed_is_kept_for_others() -> None:
    runs = FakeRuns()
    work = batch(runs, prefix_bytes=1 << 20)
    prompt = [*range(64), REFUSED, 5]
    bad = text(prompt, 4)
    work.join(bad)
    runs.refused = REFUSED
    work.prefill(32)
    work.prefill(32)
    assert bad.cached == 64
    with pytest.raises(RunFailed):
        work.prefill(32)
    work.remove(bad, keep=False)
    assert work.join(text(prompt, 4)) == 0


def test_a_run_that_fails_leaves_its_texts_as_they_were() -> None:
    runs = FakeRuns()
    work = batch(runs)
    texts = [text([number, 2, 3], 20) for number in range(3)]
    for one in texts:
        work.join(one)
    work.prefill(512)
    work.decode()
    before = [(one.cached, list(one.made)) for one in texts]
    runs.fail_next = 1
    with pytest.raises(RunFailed) as failure:
        work.decode()
    assert (failure.value.slots, failure.value.texts) == ([0, 1, 2], texts)
    assert [(one.cached, list(one.made)) for one in texts] == before


def test_the_probe_touches_nobody() -> None:
    runs = FakeRuns(rows=2)
    work = batch(runs)
    texts = [text([number, 2, 3], 60) for number in range(3)]
    for one in texts:
        work.join(one)
    work.prefill(512)
    work.remove(texts.pop(), keep=False)
    work.probe()
    for _ in range(59):
        work.decode()
    assert [one.made for one in texts] == [written([number, 2, 3], 60) for number in range(2)]
