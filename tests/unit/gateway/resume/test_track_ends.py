"""A Track stream that cannot go on ends with a useful word, and with the last step that was answered."""

import pytest

from gateway.settings import ResumeSettings
from services.kit.deadline import Deadline
from services.kit.errors import (
    DeadlineExpired,
    InvalidField,
    MalformedRequest,
    ModelNotFound,
    NoInstance,
    TriviumError,
)
from services.kit.transport.upstream import CallFailed
from tests.unit.gateway.fakes import broken, refused
from tests.unit.gateway.resume.fakes import MESSAGES, Caller, Instance, bundle, message


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
    caller = Caller([one := Instance()], deadline=Deadline.after(1))
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
    caller = Caller(instances, ResumeSettings(timeout_s=20, max_attempts=3, doubt_s=0.02))
    caller.send(message(1, model="sums"))
    await caller.next()
    for one in instances:
        one.always = broken()
    caller.send(message(2))
    with pytest.raises(NoInstance) as raised:
        await caller.next()
    assert raised.value.metadata["step"] == "1"
    assert sum(one.streams for one in instances) == 4
    await caller.close()


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


async def test_an_instance_that_leaves_a_step_out_is_not_believed() -> None:
    one = Instance()
    one.skips = 2
    caller = Caller([one])
    caller.send(message(1, 2, 3, model="sums"), end=True)
    await caller.next()
    with pytest.raises(CallFailed, match="step 3 after step 1"):
        await caller.next()
    await caller.close()
