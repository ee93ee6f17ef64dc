"""Runs in a row change when tokens are looked at, and nothing else: not which, nor what follows of them."""

import asyncio
import random
from collections.abc import Callable
from functools import partial

import pytest

from services.kit.errors import DeadlineExpired
from services.language.engine.cache import Cache
from services.language.isolation import Made, RunFailed
from services.language.lookup import PromptLookup
from services.language.sampling import Sampling, uniform
from services.language.sequence import Sequence
from tests.unit.language.fakes import LONGEST, FakeEncodedRuns, FakeRuns, batch, written
from tests.unit.language.scheduling import Counted, during, scheduler, text, times, tokens
from tests.unit.language.test_batch import expected, prompts, sequence

INTERVAL_S = 10  # longer than any text here takes: runs go on in a row until something is due


def roomy() -> FakeRuns:
    """The cache need not grow."""
    runs = FakeRuns()
    runs.cache = Cache(2, 1, 1, 8 * LONGEST, LONGEST, "FP32", smallest=LONGEST)
    return runs


def begun(runs: FakeRuns, *texts: Sequence) -> Callable[[int], Made]:
    """Texts with their first tokens; takes them on by so many runs at most."""
    work = batch(runs)
    for one in texts:
        work.join(one)
    work.encode()
    while not all(one.made for one in texts):
        if work.prefill(512) is None:
            work.decode()
    runs.runs.clear()

    def turn(count: int) -> Made:
        made = work.decode(goes_on=times(count))
        assert made is not None
        for one in made.news:
            if one.finish is not None:
                work.remove(one.sequence)
        return made

    return turn


@pytest.mark.parametrize("most", [1, 2, 7, 1000])
def test_texts_that_join_and_leave_at_any_step_are_what_they_are_alone(most: int) -> None:
    work, source = batch(FakeRuns(), prefix_bytes=1 << 16), random.Random(most)
    waiting = [(prompt, sequence(prompt, source.randrange(1, 40))) for prompt in prompts(60)]
    texts, told, longest = list(waiting), dict[Sequence, list[int]](), 0
    while waiting or work.rows:
        while waiting and len(work.rows) < 8 and source.random() < 0.6:
            work.join(waiting.pop()[1])
        for run in (partial(work.prefill, 64), partial(work.decode, goes_on=times(most))):
            if (made := run()) is None:
                continue
            for news in made.news:
                found = told.setdefault(news.sequence, [])
                assert news.index == len(found)
                found += [chosen.token for chosen in news.chosen]
                if news.finish is not None:
                    work.remove(news.sequence)
            longest = max(longest, len(made.seconds))
        assert all(row.cached == row.tokens - 1 for row in work.rows if row.made)
    for prompt, one in texts:
        assert one.made == told[one] == expected(prompt, one.limit)
    assert longest == most or 7 < longest < most


def test_each_run_gets_the_draw_of_its_own_place() -> None:
    runs = roomy()
    texts = [text([number, 3], 20, sampling=Sampling(temperature=1.0, seed=number)) for number in range(3)]
    turn = begun(runs, *texts)
    drawn: list[list[float]] = []
    run = runs.run

    def watched(*arguments: object, **others: object) -> object:
        drawn.append(arguments[3].uniform)  # type: ignore[attr-defined]
        return run(*arguments, **others)  # type: ignore[arg-type]

    runs.run = watched  # type: ignore[method-assign, assignment]
    assert len(turn(6).seconds) == 6
    assert drawn == [[uniform(seed, place) for seed in range(3)] for place in range(3, 9)]


def test_alternatives_are_those_of_their_run() -> None:
    one = text([5, 6], 9, sampling=Sampling(alternatives=2))
    (news,) = begun(roomy(), one)(1000).news
    assert [chosen.token for chosen in news.chosen] == written([5, 6], 9)[1:]
    for chosen in news.chosen:
        others = {chosen.token: -float(chosen.token), (chosen.token + 1) % 97: -float((chosen.token + 1) % 97)}
        assert dict(chosen.alternatives) == others


def test_nothing_is_computed_behind_the_end_of_a_text() -> None:
    for limit, prompt in ((12, prompt) for prompt in prompts(40)):
        runs, texts = roomy(), [sequence(prompt, limit), sequence([1, 2], 60)]
        if len(expected(prompt, limit)) < 2 or len(expected([1, 2], 60)) < 60:
            continue
        made = begun(runs, *texts)(1000)
        assert len(made.seconds) == len(runs.runs) == len(expected(prompt, limit)) - 1
        assert [one.finish for one in made.news] == ["stop" if texts[0].made[-1] == 96 else "length", None]
        if texts[0].made[-1] == 96:
            break
    else:
        raise AssertionError("no text was ended by its model")


@pytest.mark.parametrize(
    "wishes",
    [
        {"stop": ("no such text",)},
        {"repetition_penalty": 1.1},
        {"frequency_penalty": 0.5},
        {"logit_bias": {3: 1.0}},
        {"min_new_tokens": 5},
    ],
)
def test_where_more_than_the_last_token_counts_each_is_looked_at(wishes: dict[str, object]) -> None:
    one = text([5, 6], 9, sampling=Sampling(**wishes))  # type: ignore[arg-type]
    turn = begun(roomy(), one, text([7], 9))
    assert [len(turn(1000).seconds) for _ in range(4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("gone_on_with", [0, 3])
def test_texts_that_are_written_wait_for_those_that_are_read(gone_on_with: int) -> None:
    runs, one, other = roomy(), text([5, 6], 40), text(list(range(60)), 9)
    other.replay(written(other.prompt, gone_on_with))
    work = batch(runs)
    work.join(one)
    work.prefill(512)
    work.join(other)
    work.prefill(16)
    made = work.decode(goes_on=times(1000))
    assert made is not None
    assert (made.rows, len(made.seconds)) == (1, 1)


def test_a_first_token_waits_for_no_other() -> None:
    work = batch(roomy())
    work.join(text([5], 20))  # such a prompt is read like a token that was made
    made = [work.decode(goes_on=times(1000)) for _ in range(2)]
    assert [len(one.seconds) for one in made if one is not None] == [1, 19]


def test_the_first_token_of_a_text_that_is_gone_on_with_waits_for_no_other() -> None:
    one = text([5, 6], 20)
    one.replay(written([5, 6], 3))
    work = batch(roomy())
    work.join(one)
    work.prefill(4)  # all but the last of those that are known
    made = [work.decode(goes_on=times(1000)) for _ in range(2)]
    assert [len(found.seconds) for found in made if found is not None] == [1, 16]
    assert one.made == written([5, 6], 20)


@pytest.mark.parametrize(("at_once", "runs"), [(1000, [17, 20, 20]), (13, [13, 13, 13]), (8, [8, 8, 8])])
def test_texts_are_looked_at_where_a_draft_is_due(
    monkeypatch: pytest.MonkeyPatch, at_once: int, runs: list[int]
) -> None:
    """Or will soon be, where they are anyway."""
    monkeypatch.setattr(PromptLookup, "due", lambda lookup, sure: 20)
    monkeypatch.setattr(PromptLookup, "draft", lambda lookup, most, sure: [])
    work = batch(roomy(), speculative=5)
    for one in (text([5, 6], 80), text([7, 8], 80)):
        work.join(one)
    work.prefill(512)  # with the first token: three are there
    made = [work.decode(goes_on=times(at_once)) for _ in range(3)]
    assert [len(one.seconds) for one in made if one is not None] == runs


def test_texts_that_are_not_drafted_for_some_time_are_not_looked_at_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptLookup, "due", lambda lookup, sure: 1)
    work = batch(roomy(), speculative=5)
    work.join(text([5, 6], 40))
    work.prefill(512)
    work._resting = 3  # a run with drafts has failed
    made = [work.decode(goes_on=times(10)) for _ in range(3)]
    assert [len(one.seconds) for one in made if one is not None] == [10, 10, 1]


def test_the_room_in_the_cache_is_not_left() -> None:
    runs = FakeRuns()
    turn = begun(runs, text([5, 6, 7], 100))
    sizes = []
    while len(runs.runs) < 99:
        made = turn(1000)
        sizes.append(runs.cache.size)
        assert len(made.seconds) > 1 or runs.cache.size == 4
    assert sizes == [4, 8, 16, 32, 64, 128]


def test_what_was_made_before_a_run_that_failed_stays() -> None:
    runs, texts = roomy(), [text([number, 3], 20) for number in range(3)]
    turn = begun(runs, *texts)
    run = runs.run

    def fails_later(*arguments: object, **others: object) -> object:
        if len(runs.runs) == 4:
            raise RuntimeError("no memory")
        return run(*arguments, **others)  # type: ignore[arg-type]

    runs.run = fails_later  # type: ignore[method-assign, assignment]
    with pytest.raises(RunFailed) as failure:
        turn(1000)
    assert failure.value.made is not None
    assert [len(one.chosen) for one in failure.value.made.news] == [4, 4, 4]
    assert [one.made for one in texts] == [written([number, 3], 5) for number in range(3)]
    assert failure.value.slots == [0, 1, 2]
    runs.run = run  # type: ignore[method-assign]
    turn(1000)
    assert [one.made for one in texts] == [written([number, 3], 20) for number in range(3)]


@pytest.mark.parametrize("encoded", [False, True])
async def test_a_run_that_fails_in_a_row_costs_nobody_a_token(encoded: bool) -> None:
    source = [5, 6] if encoded else None
    counted, texts = Counted(), [text([number, 3], 20, source=source) for number in range(4)]
    runs = FakeEncodedRuns() if encoded else FakeRuns()

    def fail() -> None:
        runs.fail_next = 1

    during(runs, (lambda: len(runs.runs) == 6, fail))
    async with scheduler(runs, counted, stream_interval_s=INTERVAL_S) as made, asyncio.timeout(10):
        made.submit(texts)
        found = await asyncio.gather(*map(tokens, texts))
        assert found == [written([number, 3], 20, source or []) for number in range(4)]
    assert counted.failed_runs == 1
    assert counted.value("tokens_total", kind="made") == 4 * 20
    assert counted.value("step_seconds_count", kind="decode") == len(runs.runs) - 1
    assert made.statistics.executions == len(runs.runs) + encoded


async def test_who_comes_is_read_after_the_run_that_is_under_way() -> None:
    first, second = text([1, 2], 100), text([3, 4], 5)
    runs = during(FakeRuns(), (lambda: len(runs.runs) == 9, lambda: made.submit([second])))
    async with scheduler(runs, stream_interval_s=INTERVAL_S) as made, asyncio.timeout(10):
        made.submit([first])
        assert await tokens(second) == written([3, 4], 5)
        assert await tokens(first) == written([1, 2], 100)
    assert [steps for _, _, steps in runs.runs[9:12]] == [1, 2, 1]  # the one under way, the prompt, and both texts
    assert runs.runs[11][1] == 2


async def test_who_leaves_is_out_after_the_run_that_is_under_way() -> None:
    counted, staying, leaving = Counted(), text([1, 2], 100), text([2, 3], 100)
    runs = during(FakeRuns(), (lambda: len(runs.runs) == 9, lambda: made.leave(leaving)))
    async with scheduler(runs, counted, stream_interval_s=INTERVAL_S) as made, asyncio.timeout(10):
        made.submit([staying, leaving])
        assert await tokens(staying) == written([1, 2], 100)
    assert len(leaving.made) == 10
    assert counted.value("wasted_steps_total") == 1
    assert [rows for _, rows, _ in runs.runs[8:12]] == [2, 2, 1, 1]


@pytest.mark.parametrize("wait", [False, True])
async def test_deadlines_are_looked_at_while_runs_follow_one_another(wait: bool) -> None:
    """Of texts that are written, and of texts that wait for a place; they are told while another one goes on."""
    first, late = text([1, 2], 100), [text([number, 4], 100, timeout_s=number / 10) for number in (1, 2)]
    runs, loop, run = roomy(), asyncio.get_running_loop(), FakeRuns.run
    told = asyncio.Event()

    async def passed(one: Sequence) -> None:
        await asyncio.sleep(max(0.0, one.deadline.remaining_s()))

    def slow(*arguments: object, **others: object) -> object:
        at = len(runs.runs)
        if at in (9, 12):
            asyncio.run_coroutine_threadsafe(passed(late[at == 12]), loop).result()
        if at == 15:
            asyncio.run_coroutine_threadsafe(told.wait(), loop).result()
        return run(runs, *arguments, **others)  # type: ignore[arg-type]

    runs.run = slow  # type: ignore[method-assign, assignment]
    places = 1 if wait else 4
    async with scheduler(runs, max_texts=places, stream_interval_s=INTERVAL_S) as made, asyncio.timeout(10):
        made.submit([first])
        made.submit(late)
        for one in late:
            with pytest.raises(DeadlineExpired):
                await tokens(one)
        told.set()
        assert await tokens(first) == written([1, 2], 100)
