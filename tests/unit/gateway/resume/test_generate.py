"""A text goes on wherever its instance breaks: no token is missing, none comes twice, no bit differs."""

import asyncio
from typing import Any

import pytest
from google.rpc import code_pb2

from gateway.resume import generate
from gateway.settings import ResumeSettings
from services.kit.deadline import Deadline
from services.kit.errors import Draining
from services.kit.transport.upstream import CallFailed
from tests.unit.gateway.fakes import broken, fake, refused
from tests.unit.gateway.resume.fakes import settled
from tests.unit.gateway.resume.writers import SEED, Reader, Writer, bundle, by_text, request, told, word, written
from trivium.language.v1 import language_pb2 as pb

TOKENS = 9  # of the text that `request` asks for
DRAINING = refused(Draining("leaving", stage="stream"))
WRONG = [broken(), broken(code_pb2.CANCELLED), DRAINING]


async def test_without_failures_every_token_comes_once_as_it_was_made() -> None:
    answers = await told([Writer()], request(logprobs=0))
    tokens = written("once", SEED, 12)
    assert [token for answer in answers for token in answer.token_ids] == tokens
    assert [answer.index for answer in answers] == list(range(TOKENS))
    assert "".join(answer.text for answer in answers) == "".join(map(word, tokens))
    assert [answer.model for answer in answers] == ["words:1"] + [""] * (TOKENS - 1)
    assert [answer.HasField("seed") for answer in answers] == [True] + [False] * (TOKENS - 1)
    assert all(len(answer.logprobs) == 1 for answer in answers)
    assert answers[-1].finish_reason == pb.FINISH_REASON_STOP
    assert (answers[-1].usage.prompt_tokens, answers[-1].usage.generated_tokens) == (4, TOKENS)


@pytest.mark.parametrize("error", WRONG)
@pytest.mark.parametrize("asks", [{"logprobs": 2}, {"model": "", "max_new_tokens": 5}], ids=["stop", "length"])
@pytest.mark.parametrize("at", range(1, TOKENS + 1))
async def test_a_text_goes_on_wherever_its_instance_breaks(error: Exception, asks: dict[str, Any], at: int) -> None:
    expected = await told([Writer()], request(**asks))
    one, other = Writer("one"), Writer("other")
    one.fails[at] = other.fails[at] = error
    assert await told([one, other], request(**asks)) == expected


@pytest.mark.parametrize(
    ("at", "code"), [(1, code_pb2.INTERNAL), (4, code_pb2.UNKNOWN), (TOKENS, code_pb2.DATA_LOSS)], ids=str
)
async def test_where_an_instance_fails_another_one_goes_on(at: int, code: int) -> None:
    expected = await told([Writer()])
    one, other = Writer("one"), Writer("other")
    one.fails[at] = broken(code)
    assert await told([one, other]) == expected


@pytest.mark.parametrize("first", [1, 2, 5, TOKENS])
@pytest.mark.parametrize("second", [1, 2, 4])
async def test_two_deaths_in_a_row_change_nothing(first: int, second: int) -> None:
    expected = await told([Writer()])
    writers = [Writer("one"), Writer("two"), Writer("three")]
    for one in writers:
        one.fails = {first: broken()}
        one.fails.setdefault(second, broken())
    assert await told(writers, settings=ResumeSettings(max_attempts=8)) == expected


async def test_an_instance_that_leaves_is_left_and_not_blamed() -> None:
    reader = Reader([one := Writer("one"), other := Writer("other")], settings=ResumeSettings(max_attempts=1))
    one.fails[3] = other.fails[3] = DRAINING
    assert len(await reader.rest()) == TOKENS
    assert not any(writer.endpoint.ejected for writer in (one, other))
    await reader.close()


async def test_another_instance_is_asked_for_what_comes_after_the_tokens_that_were_sent() -> None:
    reader = Reader([one := Writer()], request(seed=None, stop=["x"], logit_bias={7: 1.5}))
    one.fails[5] = broken()
    await reader.rest()
    first, second = one.got
    assert list(second.continue_from.generated_token_ids) == written("once", SEED, 12)[:4]
    assert second.model == "words:1"
    second.ClearField("continue_from")
    second.model = first.model
    assert first == second == request(stop=["x"], logit_bias={7: 1.5})
    assert reader.drawn == 1
    await reader.close()


async def test_the_caller_hears_the_seed_that_was_drawn_for_it() -> None:
    reader = Reader([one := Writer()], request(seed=None))
    one.fails[1] = broken()
    assert (await reader.next()).seed == SEED
    assert [got.seed for got in one.got] == [SEED, SEED]
    await reader.close()
    assert reader.drawn == 1
    assert len({generate.seed() for _ in range(9)}) == 9
    assert any(generate.seed() >> 63 for _ in range(200))


async def test_a_seed_of_the_callers_own_is_kept_even_if_it_is_0() -> None:
    reader = Reader([one := Writer()], request(seed=0))
    assert (await reader.next()).seed == 0
    assert one.got[0].HasField("seed")
    assert reader.drawn == 0
    await reader.close()


@pytest.mark.parametrize("end_alone", [False, True])
@pytest.mark.parametrize("at", range(1, 30))
async def test_every_text_of_a_call_goes_on_from_where_it_is(at: int, end_alone: bool) -> None:
    asks = request(n=4, logprobs=1)
    one, other, whole = Writer("one"), Writer("other"), Writer()
    one.end_alone = other.end_alone = whole.end_alone = end_alone
    expected = by_text(await told([whole], asks))
    assert {choice: answers[0].seed for choice, answers in expected.items()} == {n: SEED + n for n in range(4)}
    one.fails[at] = other.fails[at] = broken()
    assert by_text(await told([one, other], asks)) == expected


@pytest.mark.parametrize("error", [*WRONG, broken(code_pb2.INTERNAL)])
async def test_an_instance_that_breaks_after_the_last_answer_is_not_missed(error: Exception) -> None:
    reader = Reader([one := Writer()], request(n=3))
    one.breaks_at_end = error
    assert {answer.choice for answer in await reader.rest() if answer.finish_reason} == {0, 1, 2}
    assert len(one.got) == 1
    assert reader.call.trailers[-1] == ("trivium-attempts", "1")
    await reader.close()


async def test_an_instance_that_ends_the_stream_before_the_text_is_a_broken_one() -> None:
    expected = await told([Writer()])
    one = Writer()
    one.ends_early = 2
    assert await told([one]) == expected


@pytest.mark.parametrize(("alone", "later"), [(False, False), (True, True), (True, False), (False, True)])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("at", range(1, 6))
async def test_a_prompt_is_echoed_once(at: int, n: int, alone: bool, later: bool) -> None:
    asks = request(echo=True, n=n)
    one, other = Writer("one"), Writer("other")
    one.echo_alone, other.echo_alone = alone, later
    one.endpoint.in_flight = -1  # it is picked first
    one.fails[at] = broken()
    found = by_text(await told([one, other], asks))
    for choice, answers in found.items():
        tokens = written("once", SEED + choice, 12)
        assert [token for answer in answers for token in answer.token_ids] == [*map(ord, "once"), *tokens]
        assert "".join(answer.text for answer in answers) == "once" + "".join(map(word, tokens))
        assert [answer.echoed for answer in answers if answer.echoed] == [4]
        assert all(answer.token_ids or answer.finish_reason for answer in answers)
    assert (len(found), len(other.got)) == (n, 1)


async def test_echo_is_not_asked_for_again() -> None:
    reader = Reader([one := Writer()], request(echo=True))
    one.fails[2] = broken()
    await reader.rest()
    assert [got.echo for got in one.got] == [True, False]
    await reader.close()


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("at", range(1, 6))
async def test_a_caller_that_goes_on_itself_gets_what_comes_after_its_own_tokens(at: int, n: int) -> None:
    asks = request(n=n)
    expected = by_text(await told([Writer()], asks))
    asks.continue_from.generated_token_ids[:] = written("once", SEED, 12)[:4]
    if n > 1:
        asks.continue_from.further.add(ids=written("once", SEED + 1, 12)[:3])
    one, other = Writer("one"), Writer("other")
    one.fails[at] = other.fails[at] = broken()
    found = by_text(await told([one, other], asks))
    for choice, begins in enumerate([4, 3][:n]):
        assert found[choice][0].seed == SEED + choice
        found[choice][0].ClearField("seed")
        assert found[choice] == expected[choice][begins:]


async def test_a_caller_whose_tokens_go_on_after_the_end_of_the_text_hears_where_that_was() -> None:
    asks = request()
    asks.continue_from.generated_token_ids[:] = [*written("once", SEED, 12), 7, 7]
    (end,) = await told([Writer()], asks)
    assert (end.index, list(end.token_ids), end.finish_reason) == (TOKENS, [], pb.FINISH_REASON_STOP)


@pytest.mark.parametrize("temperature", [0.0, None])
async def test_tokens_that_were_not_drawn_go_on_with_any_seed(temperature: float | None) -> None:
    asks = request(seed=None, temperature=temperature)
    asks.continue_from.generated_token_ids[:] = written("once", SEED, 12)[:2]
    reader = Reader([Writer()], asks)
    assert (await reader.next()).index == 2
    await reader.close()


async def test_no_seed_is_made_up_for_tokens_that_were_drawn_with_another_one() -> None:
    asks = request(seed=None)
    asks.continue_from.generated_token_ids[:] = written("once", SEED, 12)[:2]
    reader = Reader([Writer()], asks)
    with pytest.raises(CallFailed, match="no seed"):
        await reader.next()
    assert reader.drawn == 0
    await reader.close()


async def test_what_comes_twice_is_dropped_with_its_text() -> None:
    expected = await told([Writer()])
    one = Writer()
    one.repeats = 3
    assert await told([one]) == expected


async def test_an_instance_waits_for_a_caller_that_does_not_read() -> None:
    reader = Reader([one := Writer()])
    for taken in range(TOKENS):
        await reader.next()
        await settled()
        assert one.taken == taken
    await reader.close()


async def test_each_attempt_has_what_is_left_of_the_deadline_and_the_metadata_of_the_caller() -> None:
    deadline = Deadline.after(20)
    reader = Reader([one := Writer()], deadline=deadline)
    one.fails = {2: broken(), 5: broken()}
    await reader.rest()
    opened = fake(one.endpoint).opened
    assert [seen.deadline for seen in opened] == [deadline] * 3
    assert [tuple(seen.metadata) for seen in opened] == [(("who", "me"),)] * 3
    await reader.close()


async def test_trailers_the_log_line_and_the_counter_tell_the_attempts() -> None:
    reader = Reader([one := Writer()])
    one.fails = {2: broken(), 4: broken()}
    await reader.rest()
    assert reader.call.trailers == [("trivium-instance", "one"), ("trivium-attempts", "3")]
    assert (reader.call.fields["attempts"], reader.call.fields["endpoint"]) == (3, "one")
    assert reader.counted("stream_resumes") == 2
    await reader.close()


async def test_initial_metadata_is_that_of_the_instance_that_began() -> None:
    one, other = Writer("one"), Writer("other")
    reader = Reader([one, other])
    for made in (one, other):
        made.fails[3] = broken()
        fake(made.endpoint).initial = (("first", made.endpoint.id),)
    await reader.rest()
    assert len(reader.call.initial) == 1
    await reader.close()


async def test_a_text_waits_for_an_instance_of_its_bundle_and_goes_on_there() -> None:
    one, newer, late = Writer("one"), Writer("newer", bundle(1, "d2"), bundle(2, "d3")), Writer("late")
    reader = Reader([one, newer, late])
    reader.publish(one)
    found = [await reader.next()]
    one.fails[2] = broken()
    waiting = asyncio.ensure_future(reader.rest())
    reader.publish(newer)
    await settled()
    assert not waiting.done()
    reader.publish(newer, late)
    assert found + await waiting == await told([Writer()])
    assert (len(newer.got), len(late.got)) == (0, 1)
    await reader.close()


async def test_a_text_that_breaks_every_instance_anew_goes_on_while_each_makes_a_token() -> None:
    one = Writer()
    one.fails = {2 * number: broken() for number in range(1, TOKENS)}
    assert await told([one], settings=ResumeSettings(max_attempts=2)) == await told([Writer()])


@pytest.mark.parametrize("steps", range(12))
async def test_a_caller_that_leaves_at_any_moment_leaves_nothing_behind(steps: int) -> None:
    reader = Reader([Writer()])
    work = asyncio.ensure_future(reader.rest())
    for _ in range(steps):
        await asyncio.sleep(0)
    work.cancel()
    await asyncio.wait((work,))
    await reader.close()
