"""What the gateway keeps of a Track stream is bounded, and nothing is left when it ends."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from gateway.settings import ResumeSettings
from services.kit.errors import (
    Draining,
)
from tests.unit.gateway.fakes import broken, fake
from tests.unit.gateway.resume.fakes import (
    MESSAGES,
    Caller,
    Instance,
    message,
    settled,
    told,
)


async def test_a_caller_that_does_not_read_is_not_read_any_more_and_loses_nothing() -> None:
    one = Instance()
    one.gate.clear()
    caller = Caller([one], ResumeSettings(max_bytes=2000))
    data = [message(1, model="sums"), *(message(float(number)) for number in range(2, 101))]
    caller.send(*data, end=True)
    waiting = asyncio.ensure_future(caller.next())
    await settled()
    assert 5 < caller.taken < 20
    one.gate.set()
    answers = [await waiting]
    await settled()
    assert caller.taken < 25  # the answers wait for their reader
    answers += await caller.rest()
    assert [answer.step for answer in answers] == list(range(1, 101))
    await caller.close()


async def test_a_single_message_over_the_limit_passes() -> None:
    large = [message(*map(float, range(1000)), model="sums"), message(*map(float, range(1000)))]
    assert len(await told([Instance()], *large, settings=ResumeSettings(max_bytes=100))) == 2000


async def test_messages_without_values_do_not_fill_a_stream_for_ever() -> None:
    caller = Caller([one := Instance()], ResumeSettings(max_bytes=500))
    caller.publish()
    caller.send(message(model="sums"), *([message(model="sums")] * 50), message(1), end=True)
    waiting = asyncio.ensure_future(caller.rest())
    await settled()
    assert 1 < caller.taken < 10
    caller.publish(one)
    assert [answer.step for answer in await waiting] == [1]
    assert len(one.got) == 52
    await caller.close()


async def test_when_the_gateway_leaves_streams_end_with_their_step_after_the_answers_in_work() -> None:
    quiet, busy, hung = (Caller([Instance()]) for _ in range(3))
    for caller in (quiet, busy, hung):
        caller.send(message(1, model="sums"))
        await caller.next()
    waiting = asyncio.ensure_future(quiet.next())
    busy.instances[0].gate.clear()
    hung.instances[0].gate.clear()
    for caller in (busy, hung):
        caller.send(message(2, 3))
    working, hanging = asyncio.ensure_future(busy.next()), asyncio.ensure_future(hung.next())
    await settled(lambda: len(hung.instances[0].got) == 2)
    for caller in (quiet, busy, hung):
        caller.track.hand_over()
    with pytest.raises(Draining) as raised:
        await waiting
    assert raised.value.metadata["step"] == "1"
    busy.instances[0].gate.set()
    assert [(await working).step, (await busy.next()).step] == [2, 3]
    for step, last in (("3", busy.next()), ("1", hanging)):
        with pytest.raises(Draining) as raised:
            await last
        assert raised.value.metadata["step"] == step
    for caller in (quiet, busy, hung):
        await caller.close()


@pytest.mark.parametrize("steps", range(12))
async def test_a_caller_that_leaves_at_any_moment_leaves_nothing_behind(steps: int) -> None:
    one = Instance()
    caller = Caller([one])
    caller.send(*MESSAGES)
    work = asyncio.ensure_future(caller.next())
    for _ in range(steps):
        await asyncio.sleep(0)
    work.cancel()
    await asyncio.wait((work,))
    if not work.cancelled():
        work.exception()
    await caller.close()


async def test_streams_that_ended_are_not_kept() -> None:
    caller = Caller([Instance()])
    caller.send(message(1, model="sums"))
    await caller.next()
    (stream,) = caller.track._streams
    kept = weakref.ref(stream)
    del stream
    await caller.answers.aclose()
    await settled()
    gc.collect()
    assert kept() is None
    await caller.close()


async def test_what_the_transport_leaves_waiting_for_messages_ends_with_its_attempt() -> None:
    one, other = Instance("one"), Instance("other")
    caller = Caller([one, other])
    left: list[asyncio.Task[None]] = []

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async def consume() -> None:
            async for _ in requests:
                reached.set()

        reached = asyncio.Event()
        left.append(asyncio.create_task(consume()))
        await reached.wait()
        fake(one.endpoint).follow, fake(other.endpoint).follow = one.follow, other.follow
        for error in (broken(),):
            raise error
        yield b""

    fake(one.endpoint).follow = fake(other.endpoint).follow = follow
    caller.send(message(1, model="sums"))
    assert (await caller.next()).step == 1
    await settled()
    assert [task.done() for task in left] == [True]
    await caller.close()
