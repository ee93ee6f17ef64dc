"""A Track stream waits for an instance or a place as long as there is time, and for nothing that it does not need."""

import asyncio

import pytest
from google.rpc import code_pb2

from gateway.settings import ResumeSettings
from services.kit.errors import (
    DeadlineUnreachable,
    Draining,
    NoInstance,
    Overloaded,
)
from services.kit.transport.upstream import CallFailed
from tests.unit.gateway.fakes import broken, refused
from tests.unit.gateway.resume.fakes import (
    MESSAGES,
    STEPS,
    Caller,
    Instance,
    message,
    settled,
    told,
)


async def test_a_stream_waits_for_an_instance_of_its_bundle_and_goes_on_there() -> None:
    one, late = Instance("one"), Instance("late")
    caller = Caller([one])
    caller.send(message(1, model="sums"))
    expected = await told([Instance()], message(1, model="sums"), message(2))
    found = [await caller.next()]
    one.down = True
    one.fails[2] = broken()
    caller.send(message(2), end=True)
    waiting = asyncio.ensure_future(caller.rest())
    caller.publish()
    await settled()
    assert not waiting.done()
    caller.publish(late)
    found += await waiting
    assert found == expected
    assert late.streams == 1
    caller.instances = [one, late]
    await caller.close()


async def test_instances_that_were_never_reached_do_not_count_as_broken_by_the_input() -> None:
    caller = Caller([one := Instance()], ResumeSettings(timeout_s=20, max_attempts=1))
    one.refuses = refused(Draining("leaving", stage="admission"))
    caller.send(message(1, model="sums"))
    waiting = asyncio.ensure_future(caller.next())
    async with asyncio.timeout(5):
        await one.fourth.wait()
    one.refuses = None
    assert (await waiting).step == 1
    await caller.close()


async def test_a_stream_that_has_begun_waits_for_its_place_and_a_new_one_is_refused() -> None:
    full = refused(Overloaded("full", retry_after_s=0.01))
    caller = Caller([one := Instance()])
    one.fails = {2: full, 3: full}
    caller.send(message(1, model="sums"), message(2), end=True)
    assert [answer.step for answer in await caller.rest()] == [1, 2]
    await caller.close()
    one, other = Instance("one"), Instance("other")
    one.refuses = other.refuses = full
    new = Caller([one, other])
    new.send(message(1, model="sums"))
    with pytest.raises(CallFailed) as raised:
        await new.next()
    assert raised.value is full
    assert (one.streams, other.streams) == (1, 1)
    await new.close()


async def test_a_stream_that_finds_no_place_in_time_hears_that_everybody_is_full() -> None:
    full = refused(Overloaded("full", retry_after_s=0.01))
    caller = Caller([one := Instance()], ResumeSettings(timeout_s=0.05))
    caller.send(message(1, model="sums"))
    await caller.next()
    one.refuses = one.fails[2] = full
    caller.send(message(2))
    with pytest.raises(CallFailed) as raised:
        await caller.next()
    assert raised.value is full
    assert one.streams > 1
    await caller.close()


async def test_a_stream_whose_instances_leave_after_they_were_full_hears_that_nobody_is_there() -> None:
    caller = Caller([one := Instance()], ResumeSettings(timeout_s=0.05))
    caller.send(message(1, model="sums"))
    await caller.next()
    one.refuses = one.fails[2] = refused(Overloaded("full", retry_after_s=10))
    caller.send(message(2))
    waiting = asyncio.ensure_future(caller.next())
    await settled(lambda: not one.open)
    caller.publish()
    with pytest.raises(NoInstance):
        await waiting
    await caller.close()


async def test_a_step_that_cannot_be_answered_in_time_is_for_another_instance_or_for_nobody() -> None:
    late = refused(DeadlineUnreachable("the line is too long"))
    one, other = Instance("one"), Instance("other")
    one.fails[2] = late
    assert len(await told([one, other], *MESSAGES)) == STEPS
    caller = Caller([one := Instance()])
    one.fails[2] = late
    caller.send(*MESSAGES)
    await caller.next()
    with pytest.raises(CallFailed) as raised:
        await caller.next()
    assert (raised.value, one.streams) == (late, 1)
    await caller.close()


async def test_a_quiet_stream_needs_no_instance_until_it_asks_for_something() -> None:
    one, late = Instance("one"), Instance("late")
    caller = Caller([one, late], ResumeSettings(timeout_s=0))
    caller.publish(one)
    expected = await told([Instance()], message(1, model="sums"), message(2))
    caller.send(message(1, model="sums"))
    found = [await caller.next()]
    waiting = asyncio.ensure_future(caller.next())
    caller.publish()
    one.cut.set()
    await settled()
    assert not waiting.done()
    caller.publish(late)
    await settled()
    assert late.streams == 0
    caller.send(message(2))
    found.append(await waiting)
    assert found == expected
    await caller.close()


@pytest.mark.parametrize("error", [broken(), broken(code_pb2.INTERNAL)])
async def test_a_caller_that_has_every_answer_ends_well_though_nobody_is_there(error: CallFailed) -> None:
    caller = Caller([one := Instance()])
    caller.send(message(1, 2, model="sums"))
    assert [(await caller.next()).step for _ in range(2)] == [1, 2]
    waiting = asyncio.ensure_future(caller.rest())
    caller.publish()
    one.cut.set()
    await settled()
    caller.send(end=True)
    assert await waiting == []
    assert caller.call.trailers == [("trivium-attempts", "1")]
    await caller.close()
    at_once = Caller([one := Instance()])
    one.breaks_at_end = error
    at_once.send(message(1, model="sums"), end=True)
    assert len(await at_once.rest()) == 1
    await at_once.close()


async def test_a_stream_without_messages_ends_well() -> None:
    assert await told([Instance()]) == []


async def test_a_message_that_only_opens_the_stream_gets_no_answer() -> None:
    caller = Caller([one := Instance()])
    caller.send(message(model="sums"))
    waiting = asyncio.ensure_future(caller.next())
    await settled(lambda: bool(one.got))
    caller.send(message(1))
    assert (await waiting).step == 1
    caller.send(end=True)
    assert await caller.rest() == []
    await caller.close()
