"""A text that cannot go on ends with a useful word, and with the number of tokens that were sent."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from gateway.settings import ResumeSettings
from services.kit.deadline import Deadline
from services.kit.errors import (
    DeadlineUnreachable,
    InvalidField,
    MalformedRequest,
    ModelNotFound,
    NoInstance,
    Overloaded,
    TriviumError,
    Unloaded,
)
from services.kit.transport.upstream import CallFailed
from tests.unit.gateway.fakes import broken, fake, model, refused
from tests.unit.gateway.resume.fakes import settled
from tests.unit.gateway.resume.writers import Reader, Writer, request, told
from trivium.language.v1 import language_pb2 as pb

FULL = refused(Overloaded("full", retry_after_s=0.01))


async def test_garbage_is_refused_here() -> None:
    reader = Reader([one := Writer()], b"\x0a\xff")
    with pytest.raises(MalformedRequest, match="bytes of the request are no trivium"):
        await reader.next()
    assert one.got == []
    await reader.close()


async def test_an_unknown_model_is_not_waited_for() -> None:
    reader = Reader([Writer()], request(model="nope"))
    with pytest.raises(ModelNotFound):
        await reader.next()
    await reader.close()


async def test_a_model_that_is_unloaded_is_not_waited_for_by_a_text_that_begins() -> None:
    reader = Reader([one := Writer(), gone := Writer("gone")], request(model="words"))
    one.endpoint.models = (model("words", ready=False),)
    reader.publish(one)
    with pytest.raises(Unloaded, match="'words' is unloaded: LoadModel brings it back"):
        await reader.next()
    assert one.got == gone.got == []
    await reader.close()


async def test_a_text_that_has_begun_waits_for_a_model_that_is_loaded_anew() -> None:
    reader = Reader([one := Writer()], asks := request(model="words"))
    one.fails[4] = broken()
    got = [await reader.next() for _ in range(3)]
    loaded, one.endpoint.models = one.endpoint.models, (model("words", ready=False),)
    reader.publish(one)
    rest = asyncio.create_task(reader.rest())
    await settled()
    assert not rest.done()
    one.endpoint.models = loaded
    reader.publish(one)
    got += await rest
    assert [answer.token_ids for answer in got] == [answer.token_ids for answer in await told([Writer()], asks)]
    await reader.close()


@pytest.mark.parametrize("at", [1, 3])
async def test_what_every_instance_would_say_passes_on_unchanged(at: int) -> None:
    error = refused(InvalidField("wrong", field="top_p"))
    one, other = Writer("one"), Writer("other")
    reader = Reader([one, other])
    one.fails[at] = other.fails[at] = error
    for _ in range(at - 1):
        await reader.next()
    with pytest.raises(CallFailed) as raised:
        await reader.next()
    assert raised.value is error
    assert len(one.got) + len(other.got) == 1
    await reader.close()


async def test_switched_off_the_first_failure_is_the_last_word() -> None:
    one, other = Writer("one"), Writer("other")
    reader = Reader([one, other], settings=ResumeSettings(enabled=False))
    one.fails[3] = other.fails[3] = broken()
    assert [(await reader.next()).index for _ in range(2)] == [0, 1]
    with pytest.raises(NoInstance) as raised:
        await reader.next()
    assert raised.value.metadata["token"] == "2"
    assert len(one.got) + len(other.got) == 1
    await reader.close()


async def test_a_caller_hears_before_its_deadline_that_nobody_goes_on_and_how_many_tokens_it_has() -> None:
    reader = Reader([one := Writer()], request(n=2, echo=True), deadline=Deadline.after(0.2))
    one.fails[6] = broken()
    got = [await reader.next() for _ in range(5)]
    one.down = True
    with pytest.raises(NoInstance) as raised:
        await reader.next()
    made = sum(len(answer.token_ids) - answer.echoed for answer in got)
    assert raised.value.metadata == {"model": "words:1", "token": str(made)}
    assert not reader.deadline.expired()
    await reader.close()


async def test_a_text_that_breaks_every_instance_is_given_up() -> None:
    writers = [Writer(f"number {number}") for number in range(20)]
    reader = Reader(writers, settings=ResumeSettings(timeout_s=20, max_attempts=3, doubt_s=0.02))
    await reader.next()
    for one in writers:
        one.always = broken()
    with pytest.raises(NoInstance) as raised:
        await reader.next()
    assert raised.value.metadata["token"] == "1"
    assert sum(len(one.got) for one in writers) == 4
    assert sum(one.endpoint.ejected for one in writers) == 4
    await reader.close()


async def test_a_fault_passes_on_when_no_other_instance_is_left() -> None:
    error = refused(TriviumError("a bug"))
    one, other = Writer("one"), Writer("other")
    one.always = other.always = error
    reader = Reader([one, other])
    with pytest.raises(CallFailed) as raised:
        await reader.next()
    assert raised.value is error
    assert (len(one.got), len(other.got)) == (1, 1)
    await reader.close()


async def test_a_text_that_has_begun_waits_for_its_place_and_a_new_one_is_refused() -> None:
    reader = Reader([one := Writer()])
    one.fails = {3: FULL, 4: FULL}
    assert [answer.index for answer in await reader.rest()] == list(range(9))
    await reader.close()
    one, other = Writer("one"), Writer("other")
    one.always = other.always = FULL
    new = Reader([one, other])
    with pytest.raises(CallFailed) as raised:
        await new.next()
    assert raised.value is FULL
    assert (len(one.got), len(other.got)) == (1, 1)
    await new.close()


async def test_a_text_that_cannot_be_written_in_time_is_for_another_instance_or_for_nobody() -> None:
    late = refused(DeadlineUnreachable("the line is too long"))
    one, other = Writer("one"), Writer("other")
    one.always = late
    reader = Reader([one, other])
    assert len(await reader.rest()) == 9
    await reader.close()
    alone = Reader([one])
    with pytest.raises(CallFailed) as raised:
        await alone.next()
    assert raised.value is late
    await alone.close()


async def test_an_instance_that_leaves_a_token_out_is_not_believed() -> None:
    reader = Reader([one := Writer()])
    one.skips = 2
    assert [(await reader.next()).index for _ in range(2)] == [0, 1]
    with pytest.raises(CallFailed, match="answered token 3 of text 0 after 2 tokens"):
        await reader.next()
    await reader.close()


async def test_an_instance_that_goes_on_with_another_bundle_is_not_believed() -> None:
    one, other = Writer("one"), Writer("other")
    reader = Reader([one, other])
    reader.publish(one)
    await reader.next()
    one.fails[2], other.claims = broken(), "words:2"
    reader.publish(other)
    with pytest.raises(CallFailed, match="answered with words:2 and was asked for words:1"):
        await reader.next()
    await reader.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"\xff\xff", "is no trivium.language.v1.GenerateResponse"),
        (pb.GenerateResponse(choice=1, token_ids=[7]).SerializeToString(), "answered text 1 of 1"),
        (pb.GenerateResponse(index=1, token_ids=[7]).SerializeToString(), "answered token 1 of text 0 after 0 tokens"),
    ],
    ids=["garbage", "another text", "a gap"],
)
async def test_an_answer_that_is_none_is_a_fault_at_which_another_instance_goes_on(wrong: bytes, said: str) -> None:
    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for _ in requests:
            yield wrong

    one, other = Writer("one"), Writer("other")
    fake(one.endpoint).follow = follow
    one.endpoint.in_flight = -1  # it is picked first
    reader = Reader([one, other])
    assert len(await reader.rest()) == 9
    await reader.close()
    alone = Reader([one])
    with pytest.raises(CallFailed, match=said):
        await alone.next()
    await alone.close()


async def test_a_prompt_that_is_echoed_in_the_middle_of_a_text_reaches_nobody() -> None:
    one, other = Writer("one"), Writer("other")
    reader = Reader([one, other])
    reader.publish(one)
    await reader.next()
    one.fails[2] = broken()

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for _ in requests:
            yield pb.GenerateResponse(index=1, token_ids=[1, 2], echoed=1, text="ab").SerializeToString()

    fake(other.endpoint).follow = follow
    reader.publish(other)
    with pytest.raises(CallFailed, match="echoed the prompt"):
        await reader.next()
    await reader.close()
