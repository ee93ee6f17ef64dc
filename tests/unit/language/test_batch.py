import asyncio
import random
from collections.abc import Sequence as Tokens

import numpy as np
import pytest

from services.kit.deadline import Deadline
from services.kit.inference.bundle import Array
from services.language.batch import Batch
from services.language.engine.drawn import Drawn, Draws
from services.language.engine.prefixes import BLOCK
from services.language.isolation import News
from services.language.sampling import Sampling
from services.language.sequence import Sequence
from tests.unit.language.fakes import FakeRuns, FakeTokenizer, batch, written


def sequence(prompt: list[int], limit: int = 10, **wishes: object) -> Sequence:
    return Sequence(
        prompt,
        Sampling(**wishes),  # type: ignore[arg-type]
        FakeTokenizer(),  # type: ignore[arg-type]
        limit=limit,
        end=frozenset({96}),
        deadline=Deadline(),
        woken=asyncio.Event(),
    )


def scoring(tokens: list[int], known: int) -> Sequence:
    return Sequence(
        tokens[:-1],
        Sampling(alternatives=0),
        FakeTokenizer(),  # type: ignore[arg-type]
        limit=0,
        end=frozenset(),
        deadline=Deadline(),
        woken=asyncio.Event(),
        scored=tokens[known:],
    )


def turn(work: Batch, budget: int = 512) -> list[News]:
    """One step: reads, writes, lets out what has ended."""
    news = []
    for prefill in (True, False):
        made = work.prefill(budget) if prefill else work.decode()
        found = [] if made is None else made.news
        news += found
        for one in found:
            if one.finish is not None:
                work.remove(one.sequence)
    return news


def finish(work: Batch, budget: int = 512) -> None:
    for _ in range(1000):
        if not work.rows:
            return
        turn(work, budget)
    raise AssertionError("it does not end")


def expected(prompt: list[int], limit: int) -> list[int]:
    tokens = written(prompt, limit)
    return tokens[: tokens.index(96) + 1] if 96 in tokens else tokens


def prompts(count: int, longest: int = 60) -> list[list[int]]:
    source = random.Random(3)
    return [[source.randrange(90) for _ in range(source.randrange(1, longest))] for _ in range(count)]


def test_texts_that_join_and_leave_at_any_step_are_what_they_are_alone() -> None:
    for budget in (1, 7, 64, 512):
        work, source = batch(FakeRuns()), random.Random(budget)
        waiting = [(prompt, sequence(prompt, source.randrange(1, 40))) for prompt in prompts(40)]
        texts = list(waiting)
        while waiting or work.rows:
            while waiting and len(work.rows) < 8 and source.random() < 0.6:
                work.join(waiting.pop()[1])
            turn(work, budget)
        assert all(text.made == expected(prompt, text.limit) for prompt, text in texts)


def test_texts_for_which_there_is_just_memory_are_what_they_are_alone() -> None:
    for budget in (7, 64, 512):
        work, source = batch(FakeRuns(rows=2)), random.Random(budget)  # memory for two long texts, or many short ones
        waiting = [(prompt, sequence(prompt, source.randrange(1, 60))) for prompt in prompts(80, longest=64)]
        texts = list(waiting)
        while waiting or work.rows:
            while waiting and len(work.rows) < 16 and source.random() < 0.8 and work.fits(waiting[-1][1]):
                work.join(waiting.pop()[1])
            turn(work, budget)
        assert all(text.made == expected(prompt, text.limit) for prompt, text in texts)


def test_the_tokens_of_prompt_and_text_are_one_row() -> None:
    text = sequence([1, 2, 3])
    for token in (4, 5, 6):
        text.take((token,))
    row = [1, 2, 3, 4, 5, 6]
    parts = {(begin, count): text.tokens_from(begin, count) for begin in range(7) for count in range(8)}
    assert parts == {(begin, count): row[begin : begin + count] for begin, count in parts}


def test_prompts_that_wait_are_read_side_by_side() -> None:
    runs = FakeRuns()
    work = batch(runs)
    for prompt in prompts(5):
        work.join(sequence(prompt))
    turn(work)
    assert runs.runs[0][:2] == (0, 5)
    assert all(row.made for row in work.rows)


def test_a_long_prompt_is_read_in_pieces_between_the_steps_of_others() -> None:
    runs = FakeRuns()
    work = batch(runs)
    short, long = sequence([1, 2], 30), sequence(list(range(60)))
    work.join(short)
    turn(work)
    work.join(long)
    for _ in range(4):
        before = len(short.made)
        turn(work, budget=16)
        assert len(short.made) == before + 1
    assert long.made[:1] == written(list(range(60)), 1)
    assert max(steps for _, _, steps in runs.runs[2:]) <= 16


def test_a_short_prompt_does_not_wait_for_long_ones_and_they_go_on() -> None:
    work = batch(FakeRuns())
    writing, long = sequence([1, 2], 60), [sequence([number] * 110) for number in (3, 4)]
    for text in (writing, *long):
        work.join(text)
    turn(work, budget=16)
    short = sequence([5, 6, 7])
    work.join(short)
    for _ in range(2):
        turn(work, budget=16)
    assert short.made[:1] == written([5, 6, 7], 1)
    while not all(text.made for text in long):
        work.join(sequence([8, 9, 10], 1))  # there is always a shorter one
        before = [text.to_read for text in long]
        for _ in range(2):
            turn(work, budget=16)
        assert [text.to_read for text in long] != before
    finish(work, budget=16)
    assert all(text.made == expected(text.prompt, text.limit) for text in (writing, short, *long))


def test_a_run_reads_no_more_tokens_than_its_budget() -> None:
    runs = FakeRuns()
    work = batch(runs)
    for prompt in prompts(8):
        work.join(sequence(prompt))
    finish(work, budget=32)
    assert max(rows * steps for _, rows, steps in runs.runs if steps > 1) <= 32


def test_no_run_writes_behind_the_longest_text() -> None:
    work = batch(FakeRuns())
    work.join(sequence([5] * 120, 8))
    work.join(sequence([6] * 30, 98))
    finish(work, budget=100)  # FakeRuns looks at the room


def test_a_beginning_that_was_read_before_is_not_read_again() -> None:
    runs = FakeRuns()
    work = batch(runs, prefix_bytes=1 << 20)
    prompt = list(range(50))
    work.join(sequence(prompt))
    finish(work)
    runs.runs.clear()
    again = sequence([*prompt, 3], 20)
    assert work.join(again) == 3 * BLOCK
    finish(work)
    assert runs.runs[0][2] == len(prompt) + 1 - 3 * BLOCK
    assert again.made == expected([*prompt, 3], 20)


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_beginning_is_known_as_soon_as_it_was_read_however_long_its_last_piece_is(last: int) -> None:
    for speculative in (0, 5):
        work = batch(FakeRuns(), prefix_bytes=1 << 20, speculative=speculative)
        prompt = list(range(2 * BLOCK + last))
        work.join(sequence(prompt, 20))
        turn(work, budget=BLOCK)
        turn(work, budget=BLOCK)
        if not work.rows[0].made:
            turn(work, budget=BLOCK)
        assert work.rows[0].made
        assert work.join(sequence([*prompt, 3, 4], 20)) == 2 * BLOCK


def test_what_another_process_made_is_taken_in_and_gone_on_with() -> None:
    prompt = [4, 5, 6]
    whole = expected(prompt, 30)
    for cut in range(len(whole) + 1):
        text = sequence(prompt, 30)
        text.replay(whole[:cut])
        work = batch(FakeRuns())
        if text.finish is None:
            work.join(text)
        finish(work)
        assert text.made == whole


def test_a_text_ends_where_its_model_ends_it() -> None:
    prompt = next(prompt for prompt in prompts(500) if 96 in written(prompt, 12)[1:])
    text = sequence(prompt, 12)
    work = batch(FakeRuns())
    work.join(text)
    finish(work)
    assert (text.finish, text.made[-1]) == ("stop", 96)
    on = sequence(prompt, 12, ignore_eos=True)
    work.join(on)
    finish(work)
    assert (on.finish, len(on.made)) == ("length", 12)


def test_tokens_that_are_given_get_their_log_probabilities() -> None:
    tokens = list(range(40))
    text = scoring(tokens, 10)
    work = batch(FakeRuns())
    work.join(sequence([1, 2]))
    work.join(text)
    chosen = []
    while text in work.rows:
        chosen += [token for one in turn(work, budget=16) if one.sequence is text for token in one.chosen]
    assert [one.token for one in chosen] == tokens[10:]
    assert [one.logprob for one in chosen] == [-float(token) for token in tokens[10:]]


def test_alternatives_come_best_first() -> None:
    text = sequence([1], 1, alternatives=2)
    work = batch(FakeRuns())
    work.join(text)
    (news,) = turn(work)
    token = text.made[0]
    assert [found for found, _ in news.chosen[0].alternatives] == sorted((token, (token + 1) % 97))
    assert news.chosen[0].logprob == -float(token)


def test_no_temperature_or_penalty_makes_a_logit_infinite() -> None:
    runs = FakeRuns()
    given: list[Draws] = []
    run = runs.run

    def watched(
        first: int,
        token_ids: Tokens[Tokens[int]],
        start: Tokens[int],
        draws: Draws,
        source_length: Array | None = None,
    ) -> Drawn:
        given.append(draws)
        return run(first, token_ids, start, draws, source_length)

    runs.run = watched  # type: ignore[method-assign]
    work = batch(runs)
    work.join(sequence([1, 2], temperature=1e-45, repetition_penalty=1e-45))
    finish(work)
    largest = np.float32(1e3)  # of a model's logits
    for draws in given:
        assert draws.adjust is not None
        assert np.isfinite(largest / draws.adjust[1] / draws.wishes.temperature[0]).all()


def test_few_tokens_are_scored_in_one_run_with_the_same_result() -> None:
    tokens = list(range(90))
    found = []
    for most in (512, 7, 1):
        runs = FakeRuns()
        work = batch(runs, most_scored=most)
        text = scoring(tokens, 40)
        work.join(text)
        chosen = []
        while text in work.rows:
            chosen += [token for one in turn(work, budget=64) for token in one.chosen]
        found.append(chosen)
        assert max(runs.draws) <= max(most, 1)
        assert runs.runs[0][2] == min(64, 39 + most)  # what is before them is read at once
    assert found[1:] == found[:1] * 2
    assert [one.token for one in found[0]] == tokens[40:]
