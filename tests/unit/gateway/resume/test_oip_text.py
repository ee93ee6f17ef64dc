"""A text by ModelStreamInfer goes on wherever its instance breaks: no answer is missing, none comes twice."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import pytest
from google.rpc import code_pb2

from gateway.settings import ResumeSettings, StreamSettings
from inference import grpc_service_pb2 as oip
from services.kit.deadline import Deadline
from services.kit.errors import Draining, InvalidField, Overloaded, TriviumError
from tests.unit.gateway.fakes import broken, endpoint, fake, model, refused
from tests.unit.gateway.resume.fakes import settled
from tests.unit.gateway.resume.infer_writers import FINAL, Reader, Writer, bundle, request, tokens, told
from tests.unit.gateway.resume.writers import LONG, SEED, written

TOKENS = written("once", SEED, 12)
COUNT = len(TOKENS)
WRONG = [broken(), broken(code_pb2.CANCELLED), refused(Draining("leaving", stage="stream"))]


def errors(answers: Sequence[oip.ModelStreamInferResponse]) -> list[str]:
    return [answer.error_message for answer in answers if answer.error_message]


async def test_without_failures_the_answers_are_the_instances_own() -> None:
    answers = await told([Writer()])
    assert tokens(answers) == TOKENS
    assert [answer.infer_response.parameters[FINAL].bool_param for answer in answers] == [False] * (COUNT - 1) + [True]
    assert {answer.infer_response.id for answer in answers} == {"a"}
    assert ["seed" in answer.infer_response.parameters for answer in answers] == [True] + [False] * (COUNT - 1)


@pytest.mark.parametrize("error", WRONG, ids=str)
@pytest.mark.parametrize("outputs", [(), ("text_output",), ("token_ids",)], ids=str)
@pytest.mark.parametrize("at", range(1, COUNT + 1))
async def test_a_text_goes_on_wherever_its_instance_breaks(error: Exception, outputs: Sequence[str], at: int) -> None:
    expected = await told([Writer()], request(outputs=outputs))
    assert len(expected) == COUNT
    one, other = Writer("one"), Writer("other")
    one.fails[at] = other.fails[at] = error
    assert await told([one, other], request(outputs=outputs)) == expected
    assert len(one.got) + len(other.got) > 1


@pytest.mark.parametrize("at", [1, 4, COUNT])
async def test_where_an_instance_fails_another_one_goes_on(at: int) -> None:
    expected = await told([Writer()])
    one, other = Writer("one"), Writer("other")
    one.endpoint.in_flight = -1  # it is picked first
    one.fails[at] = broken(code_pb2.INTERNAL)
    assert await told([one, other]) == expected
    assert (len(one.got), len(other.got)) == (1, 1)


async def test_another_instance_is_asked_for_what_comes_after_the_tokens_that_were_sent() -> None:
    reader = Reader([one := Writer()], request(outputs=["text_output"], seed=None, top_k=7))
    one.fails[5] = broken()
    answers = await reader.rest()
    assert all([output.name for output in answer.infer_response.outputs] == ["text_output"] for answer in answers)
    first, second = one.got
    assert second.parameters["continue_from"].string_param == ",".join(map(str, TOKENS[:4]))
    assert (first.model_version, second.model_version) == ("", "1")
    assert [output.name for output in first.outputs] == ["text_output", "token_ids"]
    assert first.parameters["seed"].uint64_param == second.parameters["seed"].uint64_param == SEED
    del second.parameters["continue_from"]
    second.model_version = ""
    assert first == second
    assert reader.drawn == 1
    await reader.close()


async def test_a_text_that_its_caller_goes_on_with_goes_on_from_both() -> None:
    given = ",".join(map(str, TOKENS[:3]))
    expected = await told([Writer()], request(continue_from=given))
    assert tokens(expected) == TOKENS[3:]
    one, other = Writer("one"), Writer("other")
    one.fails[3] = other.fails[3] = broken()
    assert await told([one, other], request(continue_from=given)) == expected
    assert (one.got + other.got)[-1].parameters["continue_from"].string_param == ",".join(map(str, TOKENS[:5]))


async def test_a_seed_is_not_drawn_for_tokens_that_were_drawn_with_another_one() -> None:
    asks = request(seed=None, continue_from="7", temperature=1)
    asks.parameters["refuse"].bool_param = True
    reader = Reader([one := Writer()], asks)
    assert errors(await reader.rest()) == ["no such parameter"]
    assert "seed" not in one.got[0].parameters
    assert reader.drawn == 0
    await reader.close()


@pytest.mark.parametrize("at", range(1, 40, 3))
async def test_texts_that_share_a_stream_and_an_id_go_on_each_by_itself(at: int) -> None:
    def by_text(answers: list[oip.ModelStreamInferResponse]) -> list[list[int]]:
        """The tokens of each text: a token of no text is one of another."""
        found: list[list[int]] = [[] for _ in prompts]
        for token in tokens(answers):
            (text,) = [number for number, wanted in enumerate(texts) if token in wanted]
            found[text].append(token)
        return found

    prompts, texts = list[str](), list[list[int]]()
    for number in range(20):
        text = written(f"text {number}", SEED, 12)
        if not any(token in other for other in texts for token in text):
            prompts.append(f"text {number}")
            texts.append(text)
    assert len(texts) > 5
    one, other = Writer("one"), Writer("other")
    one.fails[at] = other.fails[at] = broken()
    answers = await told([one, other], *(request(prompt, "") for prompt in prompts))
    assert by_text(answers) == texts
    assert sum(answer.infer_response.parameters[FINAL].bool_param for answer in answers) == len(prompts)


async def test_a_text_that_cannot_be_written_gets_an_error_and_the_others_go_on() -> None:
    wrong = request(request_id="wrong", refuse=1)
    answers = await told([Writer()], request(request_id="a"), wrong, request("twice", "b"))
    (error,) = [answer for answer in answers if answer.error_message]
    assert (error.error_message, error.infer_response.id) == ("no such parameter", "wrong")
    ids = [answer.infer_response.id for answer in answers]
    assert (ids.count("a"), ids.count("b")) == (COUNT, len(written("twice", SEED, 12)))


async def test_a_text_that_breaks_every_instance_is_given_up() -> None:
    writers = [Writer(f"number {number}") for number in range(20)]
    first, *others = writers
    first.fails[2] = broken()
    for one in others:
        one.always = broken()
    reader = Reader(writers, request(), settings=ResumeSettings(timeout_s=20, max_attempts=3, doubt_s=0.02))
    reader.publish(first)
    assert tokens([await reader.next()]) == TOKENS[:1]
    reader.publish(*others)
    (end,) = await reader.rest()
    assert "failed: connection reset" in end.error_message
    assert sum(len(one.got) for one in writers) == 4
    await reader.close()


async def test_switched_off_the_first_failure_is_the_last_word() -> None:
    one, other = Writer("one"), Writer("other")
    one.fails[3] = other.fails[3] = broken()
    answers = await told([one, other], settings=ResumeSettings(enabled=False))
    assert len(answers) == 3
    assert "failed: connection reset" in answers[-1].error_message


async def test_it_goes_on_where_it_is_computed_to_the_bit() -> None:
    first, alike = Writer("first", bundle(answers="a1")), Writer("alike", bundle(answers="a1"))
    others = [Writer(f"other {number}", bundle(answers="a2")) for number in range(8)]
    reader = Reader([first, *others, alike], request())
    reader.publish(first)
    first.fails[4] = broken()
    found = [await reader.next()]
    reader.publish(*others, alike)
    found += await reader.rest()
    assert tokens(found) == TOKENS
    assert (len(alike.got), sum(len(one.got) for one in others)) == (1, 0)
    await reader.close()


async def test_a_text_under_way_waits_for_an_instance_and_holds_up_no_other_model() -> None:
    shapes = endpoint("shapes", model("shapes"))

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for data in requests:
            answer = oip.ModelStreamInferResponse()
            answer.infer_response.id = oip.ModelInferRequest.FromString(data).id
            yield answer.SerializeToString()

    fake(shapes).follow = follow
    one = Writer()
    reader = Reader([one], request(), request("twice", "b"), others=[shapes], streams=StreamSettings(window=1))
    await reader.next()
    reader.publish()
    one.always = broken()
    found = list[oip.ModelStreamInferResponse]()
    for number in range(9):
        reader.send(oip.ModelInferRequest(model_name="shapes", id=f"shape {number}"))
    while len([answer for answer in found if answer.infer_response.id.startswith("shape")]) < 9:
        found.append(await reader.next())
    one.always = None
    reader.publish(one)
    found += await reader.rest()
    assert [answer.infer_response.id for answer in found].count("b") == len(written("twice", SEED, 12))
    assert errors(found) == []
    await reader.close()


async def test_a_new_text_is_refused_where_there_is_no_place_and_one_that_has_begun_waits() -> None:
    full = refused(Overloaded("full", retry_after_s=0.01))
    one = Writer()
    one.fails = {3: full, 4: full}
    assert tokens(await told([one])) == TOKENS
    one.always = full
    assert errors(await told([one])) == ["full"]


async def test_what_is_left_of_its_timeout_goes_along() -> None:
    reader = Reader([one := Writer()], request(timeout=5_000_000))
    one.fails[3] = broken()
    await reader.rest()
    given = [got.parameters["timeout"].uint64_param for got in one.got]
    assert 5_000_000 >= given[0] > given[1] > 4_000_000
    assert fake(one.endpoint).opened[0].deadline.remaining_s() < 5
    await reader.close()


async def test_the_longest_timeout_is_one_too() -> None:
    asks = request()
    asks.parameters["timeout"].uint64_param = 2**64 - 1
    assert tokens(await told([Writer()], asks)) == TOKENS


async def test_a_text_whose_timeout_passes_while_nobody_is_there_gets_an_error() -> None:
    reader = Reader([one := Writer()], request(timeout=250_000), settings=LONG)
    one.fails[3] = broken()
    first = [await reader.next(), await reader.next()]
    reader.publish()
    rest = await reader.rest()
    assert tokens(first) == TOKENS[:2]
    assert errors(rest) == ["model 'words:1' cannot go on: none was found in time"]
    await reader.close()


async def test_a_timeout_of_a_wrong_type_is_for_the_instance_to_refuse() -> None:
    reader = Reader([one := Writer()], request(timeout="soon"))
    await reader.rest()
    assert one.got[0].parameters["timeout"].string_param == "soon"
    await reader.close()


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"claims": "2"}, "answered with words:2 and was asked for words:1"),
        ({"claims": "none"}, "names no version"),
        ({"skips": True}, f"ended a text of {COUNT - 1} tokens after {COUNT}"),
        ({"without_tokens": True}, "brings no token ids"),
        ({"odd_token": -1}, "brings no token ids"),
        ({"odd_token": 1 << 32}, "brings no token ids"),
        ({"as_message": "of another make"}, "of another make"),
    ],
    ids=str,
)
async def test_an_instance_that_answers_something_else_is_not_believed(lie: dict[str, object], said: str) -> None:
    one, other = Writer("one"), Writer("other")
    reader = Reader([one, other], request())
    reader.publish(one)
    one.fails[2] = broken()
    for name, value in lie.items():
        setattr(other, name, value)
    found = [await reader.next()]
    reader.publish(other)
    rest = await reader.rest()
    assert said in rest[-1].error_message
    assert tokens(found) == TOKENS[:1]
    await reader.close()


async def test_what_an_answer_that_is_not_believed_brings_comes_from_another_instance() -> None:
    expected = await told([Writer()], request(seed=None))
    for lie in ("without_tokens", "leaves_out_one"):
        one, other = Writer("one"), Writer("other")
        setattr(one, lie, True)
        one.endpoint.in_flight = -1  # it is picked first
        assert await told([one, other], request(seed=None)) == expected
        assert (len(one.got), len(other.got)) == (1, 1)


async def test_garbage_is_a_fault_at_which_another_instance_goes_on() -> None:
    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for _ in requests:
            yield b"\xff\xff"

    one, other = Writer("one"), Writer("other")
    fake(one.endpoint).follow = follow
    one.endpoint.in_flight = -1  # it is picked first
    assert tokens(await told([one, other])) == TOKENS


async def test_a_failure_that_every_instance_would_have_is_the_last_word_in_the_midst_of_a_text() -> None:
    one, other = Writer("one"), Writer("other")
    one.fails[4] = other.fails[4] = refused(InvalidField("wrong", field="x"))
    answers = await told([one, other])
    assert (tokens(answers[:-1]), errors(answers)) == (TOKENS[:3], ["wrong"])
    one.always = other.always = refused(TriviumError("a bug"))
    assert errors(await told([one, other])) == ["a bug"]


async def test_an_instance_that_breaks_after_the_end_of_a_text_changes_nothing() -> None:
    one = Writer()

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for answer in one.follow(requests):
            yield answer
        raise broken()

    fake(one.endpoint).follow = follow
    assert tokens(await told([one])) == TOKENS
    assert len(one.got) == 1


async def test_a_caller_that_leaves_ends_its_texts_at_the_instances() -> None:
    reader = Reader([one := Writer()], *(request(f"text {number}") for number in range(4)))
    one.gate.clear()
    waiting = asyncio.ensure_future(reader.next())
    await settled(lambda: one.open == 4)
    assert one.open == 4
    waiting.cancel()
    await asyncio.wait([waiting])
    await reader.close()


async def test_a_deadline_ends_a_text_that_waits_for_its_turn() -> None:
    reader = Reader(
        [one := Writer()],
        request(),
        request("twice", "b", timeout=20_000),
        streams=StreamSettings(window=1),
        deadline=Deadline.after(10),
    )
    await reader.next()
    one.gate.clear()
    found = [await reader.next()]
    while not errors(found):  # while the other one has the only place
        found.append(await reader.next())
    assert errors(found) == ["the time was over before the text had its turn on this stream"]
    one.gate.set()
    assert errors(await reader.rest()) == []
    assert len(one.got) == 1
    await reader.close()
