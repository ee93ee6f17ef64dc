"""Drafts change when tokens are made, and nothing else: not which, nor what is said of them."""

import itertools
import random

import pytest

from services.language.engine.prefixes import BLOCK
from services.language.isolation import News
from services.language.lookup import PromptLookup
from services.language.sequence import Sequence
from tests.unit.language.fakes import FakeRuns, FakeTokenizer, batch, written
from tests.unit.language.scheduling import Counted, scheduler, text, tokens
from tests.unit.language.test_batch import expected, finish, prompts, sequence, turn

SPECULATIVE = 5
LIMIT = 40


class Draft:
    """Guesses the tokens that come, of which each is right with some probability."""

    def __init__(self, right: float, seed: int = 1) -> None:
        self.right, self.source = right, random.Random(seed)
        self.asked: list[int] = []

    def __call__(self, lookup: PromptLookup, most: int, sure: float) -> list[int]:
        self.asked.append(most)
        coming = written(lookup._tokens, most)
        return [token if self.source.random() < self.right else (token + 1) % 90 for token in coming]


@pytest.fixture(params=[0.0, 0.5, 0.8, 1.0])
def drafting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Draft:
    made = Draft(request.param)
    monkeypatch.setattr(PromptLookup, "draft", lambda lookup, most, sure: made(lookup, most, sure))
    monkeypatch.setattr(PromptLookup, "due", lambda lookup, sure: 1)
    return made


def made_by(runs: FakeRuns, text: Sequence) -> list[News]:
    work = batch(runs, speculative=SPECULATIVE)
    work.join(text)
    news = []
    for _ in range(1 + text.limit):  # each turn makes a token at least
        news += turn(work)
    assert not work.rows
    return news


def test_a_text_is_what_it_is_without_drafts(drafting: Draft) -> None:
    for prompt in prompts(20):
        runs, text = FakeRuns(), sequence(prompt, LIMIT, alternatives=1)
        news = made_by(runs, text)
        assert text.made == expected(prompt, LIMIT)
        chosen = [one for piece in news for one in piece.chosen]
        assert [one.index for one in news] == [0, *itertools.accumulate(len(one.chosen) for one in news[:-1])]
        assert [one.token for one in chosen] == text.made
        assert [one.logprob for one in chosen] == [-float(token) for token in text.made]
        assert [one.finish for one in news[:-1]] == [None] * (len(news) - 1)
        assert news[-1].finish == text.finish
    assert drafting.asked


def test_a_beginning_whose_last_token_was_read_beside_drafts_is_known(drafting: Draft) -> None:
    work = batch(FakeRuns(), prefix_bytes=1 << 16, speculative=SPECULATIVE)
    work.join(sequence([1, 2, 3], LIMIT, ignore_eos=True))
    turn(work)
    prompt = list(range(BLOCK + 1))
    work.join(new := sequence(prompt, LIMIT, ignore_eos=True))
    assert work.prefill(BLOCK) is not None
    assert new.to_read == 1
    drafting.asked.clear()
    work.decode()
    assert drafting.asked
    assert len(new.made) == 1
    assert work.join(sequence([*prompt, 9], LIMIT)) == BLOCK


def test_drafts_that_are_right_save_runs_and_others_cost_none(drafting: Draft) -> None:
    runs, text = FakeRuns(), sequence([1, 2, 3], LIMIT, ignore_eos=True)
    made_by(runs, text)
    least, most = 1 + -(-(LIMIT - 1) // (1 + SPECULATIVE)), LIMIT
    assert len(runs.runs) == {0.0: most, 1.0: least}.get(drafting.right, len(runs.runs))
    assert least <= len(runs.runs) <= most


def test_texts_that_join_and_leave_at_any_step_are_what_they_are_alone(drafting: Draft) -> None:
    for budget in (7, 512):
        runs, source = FakeRuns(), random.Random(budget)
        work = batch(runs, prefix_bytes=1 << 16, speculative=SPECULATIVE)
        waiting = [(prompt, sequence(prompt, source.randrange(1, LIMIT))) for prompt in prompts(60)]
        texts = list(waiting)
        while waiting or work.rows:
            while waiting and len(work.rows) < 5 and source.random() < 0.3:
                work.join(waiting.pop()[1])
            turn(work, budget)
            assert all(row.cached == row.tokens - 1 for row in work.rows if row.made)
        assert all(text.made == expected(prompt, text.limit) for prompt, text in texts)
        assert any(steps > 1 for _, rows, steps in runs.runs if rows == 2)


def test_a_run_takes_no_more_tokens_than_one_text_alone_may_draft(drafting: Draft) -> None:
    for count in range(1, 8):
        runs = FakeRuns()
        work = batch(runs, speculative=SPECULATIVE)
        for number in range(count):
            work.join(sequence([number, 3], LIMIT))
        turn(work)
        runs.runs.clear()
        finish(work)
        assert max(rows * steps for _, rows, steps in runs.runs) <= max(count, 1 + SPECULATIVE)
        assert count > 3 or any(steps > 1 for _, _, steps in runs.runs)


def test_no_draft_is_longer_than_what_is_left_of_the_text_or_of_the_memory(drafting: Draft) -> None:
    for prompt, limit in (([5] * 120, 8), ([6] * 30, 98), ([7] * 127, 1)):
        work = batch(FakeRuns(rows=2), speculative=SPECULATIVE)  # FakeRuns looks at the room
        text, other = sequence(prompt, limit, ignore_eos=True), sequence([3] * 20, 20, ignore_eos=True)
        work.join(text)
        work.join(other)
        finish(work)
        assert (text.made, other.made) == (written(prompt, limit), written([3] * 20, 20))


@pytest.mark.parametrize("wishes", [{"repetition_penalty": 1.2}, {"logit_bias": {3: 1.0}}, {"min_new_tokens": 4}])
def test_nothing_is_drafted_where_draws_depend_on_the_tokens_before(drafting: Draft, wishes: dict[str, object]) -> None:
    runs = FakeRuns()
    made_by(runs, sequence([1, 2, 3], LIMIT, **wishes))
    assert {steps for _, _, steps in runs.runs[1:]} == {1}


def test_a_stop_string_ends_a_text_within_a_draft(drafting: Draft) -> None:
    prompt = [1, 2, 3]
    whole = written(prompt, LIMIT)
    for at in range(1, 20):
        stop = FakeTokenizer().decode(whole[at : at + 2])
        alone, drafted = (sequence(prompt, LIMIT, stop=(stop,), ignore_eos=True) for _ in range(2))
        work = batch(FakeRuns())
        work.join(alone)
        finish(work)
        news = made_by(FakeRuns(), drafted)
        assert (drafted.made, drafted.finish, drafted.stop_string) == (alone.made, "stop", stop)
        assert "".join(one.text or "" for one in news) == FakeTokenizer().decode(whole[:at])


def test_each_draw_is_that_of_its_place() -> None:
    text = sequence([1, 2, 3], temperature=0.8, seed=5)
    ahead = [text.draw(step) for step in range(4)]
    for draw in ahead:
        assert text.draw() == draw
        text.take((4,))
    assert len(set(ahead)) == 4


async def test_a_run_that_fails_with_a_draft_is_made_again_without(drafting: Draft) -> None:
    runs, counted = FakeRuns(), Counted()
    runs.most = 3  # tokens: prompts of two, and no long draft
    async with scheduler(runs, counted, speculative=SPECULATIVE) as made:
        one = text([1, 2], 20)
        made.submit([one])
        assert await tokens(one) == written([1, 2], 20)
    assert counted.failed_runs == 1  # nothing is drafted for a while
    assert counted.value("draft_tokens_total") == 0


async def test_a_draft_that_fails_makes_no_run_of_others_smaller(drafting: Draft) -> None:
    runs = FakeRuns()
    runs.most = 3
    async with scheduler(runs, speculative=SPECULATIVE) as made:
        made.submit([one := text([1, 2], 8)])
        await tokens(one)
        runs.most, runs.runs = None, []
        texts = [text([number, 3], 8) for number in range(4)]
        made.submit(texts)
        for each in texts:
            await tokens(each)
    assert {rows for _, rows, steps in runs.runs if steps == 1} == {4}


async def test_drafts_are_counted_and_how_many_were_right(drafting: Draft) -> None:
    counted = Counted()
    async with scheduler(FakeRuns(), counted, speculative=SPECULATIVE) as made:
        one = text([1, 2], LIMIT)
        made.submit([one])
        await tokens(one)
    drafted, right = counted.value("draft_tokens_total"), counted.value("accepted_draft_tokens_total")
    steps = counted.value("step_seconds_count", kind="decode")
    assert counted.value("tokens_total", kind="made") == LIMIT == 1 + steps + right
    assert right == {0.0: 0, 1.0: drafted}.get(drafting.right, right)
    assert 0 <= right <= drafted
    assert drafted > 0
