"""Whatever is thrown at the language service, each caller gets what it deserves, and its neighbours their tokens."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import details
from tests.hostile_texts import THROWN
from tests.integration.bad_texts.places import LIMIT_S, Place, Running
from tests.texts import GENERATE, Caller, rest
from trivium.language.v1 import language_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="package")
ALLOWED = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}


async def test_a_thousand_callers_that_leave_at_once_leave_nothing_behind(place: Place, running: Running) -> None:
    """A third of them before they are answered, a third after the first token, a third by their deadline."""
    calls = [
        place.caller.call(
            pb.GenerateRequest(prompt=f"caller {number}", max_new_tokens=200, ignore_eos=True, seed=number),
            timeout_s=0.5 if number % 3 == 2 else LIMIT_S,
        )
        for number in range(1000)
    ]
    first = [asyncio.ensure_future(call.read()) for number, call in enumerate(calls) if number % 3 == 1]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    for number, call in enumerate(calls):
        if number % 3 != 2:
            call.cancel()
    await asyncio.gather(*first, *(call.code() for call in calls), return_exceptions=True)
    await place.neighbours_are_well()
    async with asyncio.timeout(LIMIT_S):
        while await running.replica.metric("trivium_calls_in_flight") > 8:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the process tells of it by nothing else
    labels = {"model": "gpt", "version": "1"}
    assert await running.replica.metric("trivium_generation_texts_running", **labels) <= 6
    assert await running.replica.metric("trivium_generation_texts_waiting", **labels) == 0
    assert await running.replica.metric("trivium_generation_cache_tokens_reserved", **labels) <= 6 * 64


EXAMPLES = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """What became of all that was thrown."""
    yield (counted := Counter[str]())
    assert counted.total() >= 2 * EXAMPLES.max_examples * 20
    assert counted["INVALID_ARGUMENT"] > 100
    assert counted["OK"] > 20


@EXAMPLES
@given(thrown=st.lists(THROWN, min_size=20, max_size=20))
async def test_no_request_harms_the_service_or_its_neighbours(
    place: Place, tally: Counter[str], thrown: list[tuple[str, bytes]]
) -> None:
    async with asyncio.timeout(LIMIT_S):
        ends = await asyncio.gather(*(asked(place.caller, path, data) for path, data in thrown))
    await place.neighbours_are_well()
    for (path, _), error in zip(thrown, ends, strict=True):
        if error is None:
            tally["OK"] += 1
            continue
        code, info, _ = details(error)
        tally[code] += 1
        assert code in ALLOWED, (path, code, error.details())
        assert (info.domain, info.metadata["executed"]) == ("trivium", "no")
        assert len(error.details() or "") > 10


async def asked(caller: Caller, path: str, data: bytes) -> grpc.aio.AioRpcError | None:
    """What a call ends with."""
    try:
        await (rest(caller.call(data)) if path == GENERATE else caller.unary(path, data))
    except grpc.aio.AioRpcError as error:
        return error
    return None
