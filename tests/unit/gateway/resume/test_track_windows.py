"""Responses of many steps: what the caller has got is cut off, also where another instance cuts elsewhere."""

import pytest

from gateway.resume.journal import Journal
from services.kit.transport.upstream import CallFailed
from tests.tracked import by_step
from tests.unit.gateway.fakes import broken
from tests.unit.gateway.resume.fakes import MESSAGES, Caller, Instance, message, one_by_one, told
from trivium.sequence.v1 import sequence_pb2 as pb

TEN = message(*range(1, 11), model="sums", return_state=True)


def steps(responses: list[bytes]) -> list[list[int]]:
    """The steps of each response."""
    return [[one.step for one in pb.TrackResponse.FromString(data).steps] for data in responses]


@pytest.mark.parametrize("ask", [told, one_by_one])
@pytest.mark.parametrize("windows", [(1, 3), (3, 1), (2, 3), (3, 2), (8, 2), (2, 8)])
@pytest.mark.parametrize("at", range(1, 18))
async def test_a_stream_goes_on_wherever_it_breaks_and_however_the_next_instance_cuts(  # type: ignore[no-untyped-def]
    ask, windows: tuple[int, int], at: int
) -> None:
    asking = message(1, 2, model="sums", return_state=True)
    messages = (asking, *MESSAGES[1:], message(*range(10)))
    expected = await ask([Instance()], *messages)
    assert [one.step for one in expected] == list(range(1, 18))
    one, other = (Instance(name, window=window) for name, window in zip(("one", "other"), windows, strict=True))
    one.fails[at] = other.fails[at] = broken()
    assert await ask([one, other], *messages) == expected


@pytest.mark.parametrize(
    ("window", "rest"),
    [
        (1, [[step] for step in range(5, 11)]),
        (3, [[5, 6], [7, 8, 9], [10]]),
        (4, [[5, 6, 7, 8], [9, 10]]),
        (5, [[5], [6, 7, 8, 9, 10]]),
        (32, [[5, 6, 7, 8, 9, 10]]),
    ],
)
async def test_of_an_answer_that_was_given_in_part_the_caller_gets_the_rest(window: int, rest: list[list[int]]) -> None:
    expected = await told([Instance()], TEN)
    one, other = Instance("one", window=4), Instance("other", window=window)
    one.fails[5] = broken()
    caller = Caller([one, other])
    caller.publish(one)
    caller.send(TEN, end=True)
    found = [await caller.next()]
    caller.publish(other)
    found += await caller.rest()
    assert steps(caller.responses) == [[1, 2, 3, 4], *rest]
    assert found == expected
    assert (other.streams, other.answers) == (1, 10)
    await caller.close()


async def test_a_response_of_many_steps_passes_unchanged_where_there_is_nothing_to_take_away() -> None:
    journal, endpoint = Journal(), Instance().endpoint
    journal.take(TEN)
    journal.begin()
    journal.next()
    given = [
        pb.TrackResponse(
            steps=[pb.TrackedStep(step=1, values=[1]), pb.TrackedStep(step=2, values=[2])], model="sums:1"
        ),
        pb.TrackResponse(steps=[pb.TrackedStep(step=step, values=[step]) for step in range(3, 11)], state=b"state"),
    ]
    for response in given:
        data = response.SerializeToString()
        assert journal.answered(data, endpoint) is data
    assert (journal.delivered, journal.asked) == (10, False)


@pytest.mark.parametrize("numbers", [(), (0, 1), (2, 3), (1, 3), (1, 1), (2, 1), (1, 2, 4), (1, 2, 2, 3)])
async def test_steps_that_do_not_follow_one_another_are_an_instances_fault(numbers: tuple[int, ...]) -> None:
    journal, endpoint = Journal(), Instance().endpoint
    journal.take(TEN)
    journal.begin()
    journal.next()
    journal.answered(pb.TrackResponse(steps=[{"step": 1}], model="sums:1").SerializeToString(), endpoint)  # type: ignore[list-item]
    response = pb.TrackResponse(steps=[pb.TrackedStep(step=number + 1) for number in numbers])
    if numbers[:1] == (0,):
        response.steps[0].step = 0
    with pytest.raises(CallFailed):
        journal.answered(response.SerializeToString(), endpoint)
    assert journal.delivered == 1


@pytest.mark.parametrize("skipped", range(1, 10))
async def test_an_instance_that_leaves_a_step_out_of_a_response_gets_no_further(skipped: int) -> None:
    expected = await told([Instance()], TEN)
    one, other = Instance("one", window=4), Instance("other")
    one.skips = skipped
    caller = Caller([one, other])
    caller.publish(one)
    caller.send(TEN, message(11), end=True)
    found = []
    if skipped > 4:
        found.append(await caller.next())
    caller.publish(one, other)
    found += await caller.rest()
    assert found[:10] == expected
    assert [answer.step for answer in found] == list(range(1, 12))
    await caller.close()


async def test_the_state_of_a_response_commits_its_message_and_comes_with_its_last_step() -> None:
    one = Instance(window=4)
    caller = Caller([one])
    caller.send(TEN)
    found = [await caller.next() for _ in range(10)]
    assert [bool(answer.state) for answer in found] == [False] * 9 + [True]
    assert steps(caller.responses) == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    one.fails[one.answers + 1] = broken()
    caller.send(message(11), end=True)
    assert [answer.step for answer in await caller.rest()] == [11]
    assert [list(request.values) for request in one.got] == [list(range(1, 11)), [11], [], [11]]
    assert one.got[2].resume_state == found[-1].state
    await caller.close()


async def test_the_state_that_nobody_asked_for_is_taken_out_of_a_response_of_many_steps() -> None:
    caller = Caller([Instance(window=4)])
    caller.send(message(1, 2, 3, 4, 5, model="sums"), message(6, 7), end=True)
    await caller.rest()
    assert steps(caller.responses) == [[1, 2, 3, 4], [5], [6, 7]]
    assert not any(answer.state for answer in by_step(caller.responses))
    await caller.close()
