"""A Track stream goes on wherever its instance breaks: no step is missing, none comes twice, no bit differs."""

import asyncio

import pytest
from google.rpc import code_pb2

from gateway.settings import ResumeSettings
from services.kit.errors import (
    Draining,
)
from tests.unit.gateway.fakes import broken, fake, refused
from tests.unit.gateway.resume.fakes import (
    MESSAGES,
    STEPS,
    Caller,
    Instance,
    bundle,
    message,
    one_by_one,
    settled,
    told,
)


@pytest.mark.parametrize("ask", [told, one_by_one])
async def test_without_failures_every_step_is_answered_once_and_the_state_stays_here(ask) -> None:  # type: ignore[no-untyped-def]
    found = await ask([Instance()], *MESSAGES)
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


@pytest.mark.parametrize("code", [code_pb2.INTERNAL, code_pb2.UNKNOWN, code_pb2.DATA_LOSS])
@pytest.mark.parametrize("at", range(1, STEPS + 1))
async def test_where_an_instance_fails_another_one_goes_on(code: int, at: int) -> None:
    expected = await told([Instance()], *MESSAGES)
    one, other = Instance("one"), Instance("other")
    one.fails[at] = broken(code)
    assert await told([one, other], *MESSAGES) == expected


async def test_a_caller_that_asks_for_the_state_gets_it_once_each_message_and_can_go_on_with_it() -> None:
    asking = message(1, 2, model="sums", return_state=True)
    answers = await told([Instance()], asking, *MESSAGES[1:])
    one, other = Instance("one"), Instance("other")
    one.fails[4] = other.fails[4] = broken()
    assert await told([one, other], asking, *MESSAGES[1:]) == answers
    assert [bool(answer.state) for answer in answers] == [False, True, True, False, False, True, True]
    for at in range(1, 5):
        again = Instance()
        again.fails[at] = broken()
        later = [message(4, 5, 6, model="sums", resume_state=answers[2].state, return_state=True), MESSAGES[4]]
        found = await told([again], *later)
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
    assert found == expected
    assert [request.model for request in two.got] == ["sums:1", ""][: len(messages)]
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
