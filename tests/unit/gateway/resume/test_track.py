"""A Track stream goes on wherever its instance breaks: no step is missing, none comes twice, no bit differs."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import pytest
from google.rpc import code_pb2

from gateway.settings import ResumeSettings
from services.kit.deadline import Deadline
from services.kit.errors import (
    DeadlineExpired,
    DeadlineUnreachable,
    Draining,
    InvalidField,
    MalformedRequest,
    ModelNotFound,
    NoInstance,
    Overloaded,
    TriviumError,
)
from services.kit.transport.upstream import CallFailed
from tests.unit.gateway.fakes import broken, fake, refused
from tests.unit.gateway.resume.fakes import Caller, Instance, bundle, message, settled
from trivium.sequence.v1 import sequence_pb2 as pb

MESSAGES = (message(1, 2, model="sums"), message(3, model="sums"), message(), message(4, 5, 6), message(7))
STEPS = 7


async def told(instances: Sequence[Instance], *messages: bytes, settings: ResumeSettings | None = None) -> list[bytes]:
    """Every answer that a caller gets to these messages, which it sends at once."""
    caller = Caller(instances, settings) if settings else Caller(instances)
    caller.send(*messages, end=True)
    found = await caller.rest()
    await caller.close()
    return [one.SerializeToString() for one in found]


async def one_by_one(instances: Sequence[Instance], *messages: bytes) -> list[bytes]:
    """The same to a caller that waits for the answers to a message before it sends the next one."""
    caller, found = Caller(instances), []
    async with asyncio.timeout(10):
        for data in messages:
            caller.send(data)
            found += [await caller.next() for _ in pb.TrackRequest.FromString(data).values]
        caller.send(end=True)
        found += await caller.rest()
    await caller.close()
    return [one.SerializeToString() for one in found]


@pytest.mark.parametrize("ask", [told, one_by_one])
async def test_without_failures_every_step_is_answered_once_and_the_state_stays_here(ask) -> None:  # type: ignore[no-untyped-def]
    found = [pb.TrackResponse.FromString(data) for data in await ask([Instance()], *MESSAGES)]
    assert [one.step for one in found] == list(range(1, STEPS + 1))
    assert [one.model for one in found] == ["sums:1"] + [""] * (STEPS - 1)
    assert not any(one.state for one in found)


@pytest.mark.parametrize("ask", [told, one_by_one])
@pytest.mark.parametrize("error", [broken(), broken(code_pb2.CANCELLED), refused(Draining("leaving", stage="stream"))])
@pytest.mark.parametrize("at", range(1, STEPS + 1))
async def test_a_stream_goes_on_wherever_its_instance_breaks(ask, error: Exception, at: int) -> None:  # type: ignore[no-untyped-def]
    expected = await ask([Instance()], *MESSAGES)
    one, other = Instance("one"), Instance("other")
    one.fails[at] = other.fails[at] = error
    assert await ask([one, other], *MESSAGES) == expected


@pytest.mark.parametrize("first", range(1, STEPS + 1))
@pytest.mark.parametrize("second", range(1, 4))
async def test_two_deaths_in_a_row_change_nothing(first: int, second: int) -> None:
    expected = await told([Instance()], *MESSAGES)
    instances = [Instance("one"), Instance("two"), Instance("three")]
    for one in instances:
        one.fails = {first: broken()}
        one.fails.setdefault(second, broken())
    assert await told(instances, *MESSAGES, settings=ResumeSettings(max_attempts=8)) == expected


async def test_a_caller_that_asks_for_the_state_gets_it_once_each_message_and_can_go_on_with_it() -> None:
    asking = message(1, 2, model="sums", return_state=True)
    expected = await told([Instance()], asking, *MESSAGES[1:])
    one, other = Instance("one"), Instance("other")
    one.fails[4] = other.fails[4] = broken()
    assert await told([one, other], asking, *MESSAGES[1:]) == expected
    answers = [pb.TrackResponse.FromString(data) for data in expected]
    assert [bool(answer.state) for answer in answers] == [False, True, True, False, False, True, True]
    for at in range(1, 5):
        again = Instance()
        again.fails[at] = broken()
        later = [message(4, 5, 6, model="sums", resume_state=answers[2].state, return_state=True), MESSAGES[4]]
        found = [pb.TrackResponse.FromString(data) for data in await told([again], *later)]
        assert [(one.step, one.values, one.state) for one in found] == [
            (one.step, one.values, one.state) for one in answers[3:]
        ]


async def test_what_was_answered_is_not_asked_for_again() -> None:
    one = Instance()
    caller = Caller([one])
    caller.send(message(1, 2, model="sums"), message(3, model="sums"))
    assert [(await caller.next()).step for _ in range(3)] == [1, 2, 3]
    one.fails[one.answers + 1] = broken()
    caller.send(message(4, model="sums"), end=True)
    assert [answer.step for answer in await caller.rest()] == [4]
    assert [list(request.values) for request in one.got] == [[1, 2], [3], [4], [], [4]]
    assert [request.model for request in one.got] == ["sums", "sums", "sums", "sums:1", ""]
    assert all(request.return_state for request in one.got if request.resume_state)
    await caller.close()


async def test_trailers_and_the_log_line_count_the_attempts() -> None:
    one = Instance()
    one.fails = {2: broken(), 4: broken()}
    caller = Caller([one])
    caller.send(*MESSAGES, end=True)
    await caller.rest()
    await caller.close()
    assert caller.call.trailers == [("trivium-instance", "one"), ("trivium-attempts", "3")]
    assert (caller.call.fields["attempts"], caller.call.fields["endpoint"]) == (3, "one")
    counted = caller.gateway.registry.get_sample_value
    assert counted("trivium_gateway_stream_resumes_total", {"method": caller.call.method}) == 2
    assert counted("trivium_gateway_live_streams") == 0


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


async def test_an_instance_that_ends_the_stream_too_early_is_a_broken_one() -> None:
    expected = await told([Instance()], *MESSAGES)
    one = Instance()
    one.ends_early = 2
    assert await told([one], *MESSAGES) == expected


async def test_an_instance_that_breaks_after_the_last_answer_is_not_missed() -> None:
    one = Instance()
    one.breaks_at_end = broken()
    assert len(await told([one], *MESSAGES)) == STEPS
    assert one.streams == 1


async def test_what_every_instance_would_say_passes_on_unchanged_after_the_answers_before_it() -> None:
    error = refused(InvalidField("wrong", field="values"))
    one, other = Instance("one"), Instance("other")
    one.fails[3] = other.fails[3] = error
    caller = Caller([one, other])
    caller.send(*MESSAGES, end=True)
    assert [(await caller.next()).step for _ in range(2)] == [1, 2]
    with pytest.raises(CallFailed) as raised:
        await caller.next()
    assert raised.value is error
    assert one.streams + other.streams == 1
    await caller.close()


async def test_garbage_is_refused_after_the_answers_to_what_came_before() -> None:
    caller = Caller([Instance()])
    caller.send(message(1, 2, model="sums"), b"\x0a\xff")
    assert [(await caller.next()).step for _ in range(2)] == [1, 2]
    with pytest.raises(MalformedRequest) as raised:
        await caller.next()
    assert raised.value.metadata["step"] == "2"
    await caller.close()
    first = Caller([Instance()])
    first.send(b"\x0a\xff")
    with pytest.raises(MalformedRequest):
        await first.next()
    await first.close()


async def test_a_message_for_another_model_is_for_the_service_to_refuse() -> None:
    caller = Caller([Instance()])
    caller.send(message(1, model="sums"), message(2, model="others"))
    await caller.next()
    with pytest.raises(CallFailed, match="another model"):
        await caller.next()
    await caller.close()


async def test_a_silent_caller_hears_where_it_is_at_once() -> None:
    caller = Caller([one := Instance()])
    caller.send(message(1, model="sums"))
    await caller.next()
    one.gate.clear()
    caller.send(message(2))
    caller.messages.put_nowait(DeadlineExpired("no message passed for 300 s"))
    with pytest.raises(DeadlineExpired) as raised:
        await caller.next()
    assert raised.value.metadata["step"] == "1"
    await caller.close()


async def test_an_unknown_model_is_not_waited_for() -> None:
    caller = Caller([Instance()])
    caller.send(message(1, model="nope"))
    with pytest.raises(ModelNotFound):
        await caller.next()
    await caller.close()


async def test_a_model_that_was_unloaded_just_now_has_no_instance_and_a_default_that_is_none_is_not_found() -> None:
    for first, expected in ((message(1, model="sums"), NoInstance), (message(1), CallFailed)):
        caller = Caller([one := Instance()])
        one.refuses = refused(ModelNotFound("unloaded"))
        caller.send(first)
        with pytest.raises(expected):
            await caller.next()
        assert one.streams == 1
        await caller.close()


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
    assert [answer.SerializeToString() for answer in found] == expected
    assert late.streams == 1
    caller.instances = [one, late]
    await caller.close()


async def test_another_bundle_under_the_same_name_and_version_is_not_gone_on_with() -> None:
    one, foreign, newer = Instance("one"), Instance("foreign", bundle(1, "d2")), Instance("newer", bundle(2, "d3"))
    caller = Caller([one, foreign, newer], ResumeSettings(timeout_s=0.05))
    caller.publish(one)
    caller.send(message(1, model="sums"))
    await caller.next()
    one.fails[2] = broken()
    one.down = True
    caller.publish(foreign, newer)
    caller.send(message(2))
    one.always = broken()
    with pytest.raises(NoInstance) as raised:
        await caller.next()
    assert raised.value.metadata == {"model": "sums:1", "step": "1"}
    assert foreign.streams == newer.streams == 0
    await caller.close()


@pytest.mark.parametrize(
    "messages", [(message(1, 2, 3, model="sums"),), (message(model="sums"), message(1, 2, 3, model="sums"))]
)
async def test_a_message_that_was_answered_in_part_is_asked_again_of_the_bundle_that_began(
    messages: list[bytes],
) -> None:
    expected = await told([Instance()], *messages)
    one, two = Instance("one"), Instance("two", bundle(), bundle(2, "d2"))
    caller = Caller([one, two])
    caller.publish(one)
    one.fails[3] = broken()
    caller.send(*messages, end=True)
    found = [await caller.next()]
    caller.publish(one, two)
    found += await caller.rest()
    assert [answer.SerializeToString() for answer in found] == expected
    assert [request.model for request in two.got] == ["sums:1", ""][: len(messages)]
    await caller.close()


async def test_answers_of_another_bundle_than_the_one_that_began_reach_nobody() -> None:
    one, other = Instance("one"), Instance("other")
    caller = Caller([one, other])
    caller.publish(one)
    one.fails[2] = broken()
    caller.send(message(1, 2, model="sums"))
    await caller.next()
    other.claims = "sums:2"
    caller.publish(other)
    with pytest.raises(CallFailed, match="answered with sums:2 and was asked for sums:1"):
        await caller.next()
    await caller.close()


async def test_a_caller_hears_before_its_deadline_that_nobody_goes_on() -> None:
    caller = Caller([one := Instance()], deadline=Deadline.after(0.15))
    caller.send(message(1, 2, model="sums"))
    one.fails[2] = broken()
    assert (await caller.next()).step == 1
    one.down = True
    with pytest.raises(NoInstance) as raised:
        await caller.next()
    assert raised.value.metadata["step"] == "1"
    assert not caller.deadline.expired()
    await caller.close()


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (message(1, model="sums"), {"model": "sums", "step": "0"}),
        (message(1), {"service": "trivium-sequence-v1", "step": "0"}),
        (message(1, model="sums", resume_state=b"d1 100 5.0"), {"model": "sums"}),
    ],
    ids=["named", "default", "resumed"],
)
async def test_a_caller_that_gets_no_answer_hears_what_was_looked_for(first: bytes, expected: dict[str, str]) -> None:
    caller = Caller([one := Instance()], ResumeSettings(timeout_s=0.02))
    one.down = True
    caller.send(first)
    with pytest.raises(NoInstance, match=next(iter(expected.values()))) as raised:
        await caller.next()
    assert raised.value.metadata == expected
    await caller.close()


async def test_an_input_that_breaks_every_instance_is_given_up() -> None:
    instances = [Instance(f"number {number}") for number in range(20)]
    caller = Caller(instances, ResumeSettings(timeout_s=20, max_attempts=3))
    caller.send(message(1, model="sums"))
    await caller.next()
    for one in instances:
        one.always = broken()
    caller.send(message(2))
    with pytest.raises(NoInstance) as raised:
        await caller.next()
    assert raised.value.metadata["step"] == "1"
    assert sum(one.streams for one in instances) == 3
    await caller.close()


@pytest.mark.parametrize("code", [code_pb2.INTERNAL, code_pb2.UNKNOWN, code_pb2.DATA_LOSS])
@pytest.mark.parametrize("at", range(1, STEPS + 1))
async def test_where_an_instance_fails_another_one_goes_on(code: int, at: int) -> None:
    expected = await told([Instance()], *MESSAGES)
    one, other = Instance("one"), Instance("other")
    one.fails[at] = broken(code)
    assert await told([one, other], *MESSAGES) == expected


async def test_a_fault_passes_on_when_no_other_instance_is_left_or_enough_have_failed() -> None:
    error = refused(TriviumError("a bug"))
    for there, tried in ((1, 1), (2, 2), (5, 3)):
        instances = [Instance(f"number {number}") for number in range(there)]
        caller = Caller(instances)
        caller.send(message(1, model="sums"))
        await caller.next()
        for one in instances:
            one.always = error
        caller.send(message(2))
        with pytest.raises(CallFailed) as raised:
            await caller.next()
        assert raised.value is error
        assert sum(one.streams for one in instances) == tried
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


async def test_switched_off_the_first_failure_is_the_last_word() -> None:
    one, other = Instance("one"), Instance("other")
    one.fails[2] = other.fails[2] = broken()
    caller = Caller([one, other], ResumeSettings(enabled=False))
    caller.send(*MESSAGES, end=True)
    assert (await caller.next()).step == 1
    with pytest.raises(NoInstance) as raised:
        await caller.next()
    assert raised.value.metadata["step"] == "1"
    await caller.close()


async def test_a_quiet_stream_outlives_any_number_of_instances() -> None:
    instances = [Instance(f"number {number}") for number in range(5)]
    caller = Caller(instances, ResumeSettings(timeout_s=20, max_attempts=2))
    caller.send(message(1, model="sums"))
    await caller.next()
    for step in range(2, 6):
        (owner,) = (one for one in instances if one.open)
        waiting = asyncio.ensure_future(caller.next())
        owner.cut.set()
        await settled()
        caller.send(message(step))
        assert (await waiting).step == step
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
    assert [answer.SerializeToString() for answer in found] == expected
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


async def test_initial_metadata_is_the_first_instances_alone() -> None:
    one, other = Instance("one"), Instance("other")
    caller = Caller([one, other])
    for made in (one, other):
        made.fails[2] = broken()
        fake(made.endpoint).initial = (("first", made.endpoint.id),)
    caller.send(message(1, 2, 3, model="sums"), end=True)
    await caller.next()
    assert len(caller.call.initial) == 1
    assert len(await caller.rest()) == 2
    assert len(caller.call.initial) == 1
    await caller.close()


async def test_an_instance_that_leaves_a_step_out_is_not_believed() -> None:
    one = Instance()
    one.skips = 2
    caller = Caller([one])
    caller.send(message(1, 2, 3, model="sums"), end=True)
    await caller.next()
    with pytest.raises(CallFailed, match="step 3 after step 1"):
        await caller.next()
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
