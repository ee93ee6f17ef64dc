"""A request that breaks its instances is given up, and one that had bad luck where instances die is not."""

import asyncio
import itertools

import pytest
from google.rpc import code_pb2

from gateway.resume.generate import GENERATE, SERVICE, Generate
from gateway.settings import ResumeSettings
from services.kit.call import Call
from services.kit.errors import NoInstance
from services.kit.transport.upstream import CallFailed
from tests.unit.gateway.fakes import broken, endpoint, model
from tests.unit.gateway.resume.fakes import settled
from tests.unit.gateway.resume.writers import Reader, Writer, request

TOKENS = 9
PATIENT = ResumeSettings(timeout_s=20, max_attempts=3, doubt_s=5)
HASTY = ResumeSettings(timeout_s=20, max_attempts=3, doubt_s=0.05)


class Storm:
    """Instances that die without the request."""

    def __init__(self, reader: Reader) -> None:
        self._outliers, self._number = reader.gateway.dispatch.outliers, itertools.count()

    def strikes(self, service: str = SERVICE) -> None:
        self._outliers.failed(endpoint(f"struck {next(self._number)}", model("words"), service=service), broken())


def dying(count: int) -> list[Writer]:
    """Instances each of which dies with the first request that it gets, and is well after that."""
    writers = [Writer(f"number {number}") for number in range(count)]
    for one in writers:
        one.fails[1] = broken()
    return writers


def killed(writers: list[Writer]) -> int:
    return sum(1 not in one.fails for one in writers)


async def until_held(writers: list[Writer], count: int = 3) -> None:
    async with asyncio.timeout(5):
        while killed(writers) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # back-offs take real time
    await settled()


async def test_a_request_with_which_three_break_is_held_back_has_one_more_attempt_and_is_given_up() -> None:
    writers = dying(20)
    reader = Reader(writers, settings=HASTY)
    with pytest.raises(NoInstance, match="failed: connection reset"):
        await reader.next()
    assert killed(writers) == 4
    assert reader.gateway.registry.get_sample_value("trivium_gateway_stream_resumes_total", {"method": GENERATE}) == 3
    await reader.close()


async def test_what_was_held_back_when_the_dying_ended_is_not_lost() -> None:
    writers = dying(3)
    reader = Reader([*writers, Writer("well")], settings=HASTY)
    reader.publish(*writers)
    waiting = asyncio.ensure_future(reader.rest())
    await until_held(writers)
    reader.publish(reader.writers[-1])
    assert len(await waiting) == TOKENS
    await reader.close()


async def test_there_is_no_further_attempt_when_the_time_is_over() -> None:
    writers = dying(20)
    reader = Reader(writers, settings=ResumeSettings(timeout_s=0.5, max_attempts=3, doubt_s=5))
    with pytest.raises(NoInstance, match="failed: connection reset"):
        await reader.next()
    assert killed(writers) == 3
    await reader.close()


async def test_it_goes_on_when_another_instance_breaks_without_it() -> None:
    writers = dying(3)
    reader = Reader([*writers, Writer("well")], settings=PATIENT)
    reader.publish(*writers)
    waiting = asyncio.ensure_future(reader.rest())
    await until_held(writers)
    reader.publish(*reader.writers)
    await settled()
    assert not waiting.done()
    assert reader.writers[-1].got == []
    Storm(reader).strikes("trivium-vision-v1")  # of another service: that says nothing
    await settled()
    assert reader.writers[-1].got == []
    Storm(reader).strikes()
    assert len(await waiting) == TOKENS
    await reader.close()


async def test_instances_that_broke_without_it_in_that_time_speak_for_it_too() -> None:
    writers = dying(5)
    reader = Reader([*writers, Writer("well")], settings=HASTY)
    reader.publish(*writers)
    storm = Storm(reader)
    waiting = asyncio.ensure_future(reader.rest())
    for count in range(1, 5):
        await until_held(writers, count)
        storm.strikes()
    await until_held(writers, 5)
    assert not waiting.done()
    reader.publish(reader.writers[-1])
    assert len(await waiting) == TOKENS
    await reader.close()


async def test_those_that_broke_before_it_came_do_not() -> None:
    writers = dying(20)
    reader = Reader(writers, settings=HASTY)
    for _ in range(5):
        Storm(reader).strikes()
    with pytest.raises(NoInstance):
        await reader.next()
    assert killed(writers) == 4
    await reader.close()


async def test_it_is_tried_once_for_each_instance_that_breaks_without_it() -> None:
    writers = dying(20)
    reader = Reader(writers, settings=PATIENT)
    storm = Storm(reader)
    waiting = asyncio.ensure_future(reader.rest())
    for count in (3, 4, 5):
        await until_held(writers, count)
        await asyncio.sleep(0.02)
        assert killed(writers) == count
        storm.strikes()
    await until_held(writers, 6)
    waiting.cancel()
    await asyncio.wait([waiting])
    await reader.close()


async def test_two_that_break_their_instances_do_not_speak_for_each_other_for_ever() -> None:
    writers = dying(40)
    reader = Reader(writers, settings=HASTY)
    generate = Generate(reader.gateway.routes, reader.gateway.dispatch, HASTY)
    more = [request(f"number {number}").SerializeToString() for number in range(3)]
    handler = generate.methods()[GENERATE].handler
    calls = [reader.answers, *(handler(data, Call(GENERATE, reader.deadline)) for data in more)]
    ends = await asyncio.gather(*map(anext, calls), return_exceptions=True)
    assert all(isinstance(end, NoInstance) for end in ends)
    assert 4 * 3 <= killed(writers) <= 4 * 6
    await reader.close()


async def test_however_many_break_without_it_there_is_an_end() -> None:
    writers = dying(20)
    reader = Reader(writers, settings=PATIENT)
    storm = Storm(reader)
    waiting = asyncio.ensure_future(reader.next())
    await until_held(writers, 1)
    for _ in range(50):
        storm.strikes()
    with pytest.raises(NoInstance):
        await waiting
    assert killed(writers) == 6
    await reader.close()


async def test_progress_clears_it() -> None:
    writers = [Writer(f"number {number}") for number in range(12)]
    for one in writers:
        one.fails[2] = broken()
    reader = Reader(writers, settings=PATIENT)
    assert len(await reader.rest()) == TOKENS
    await reader.close()


async def test_what_instances_fail_at_without_breaking_is_not_held_back() -> None:
    writers = [Writer(f"number {number}") for number in range(9)]
    for one in writers:
        one.always = broken(code_pb2.INTERNAL)
    reader = Reader(writers, settings=PATIENT)
    with pytest.raises(CallFailed):
        async with asyncio.timeout(2):
            await reader.next()
    assert sum(len(one.got) for one in writers) == 3
    await reader.close()
