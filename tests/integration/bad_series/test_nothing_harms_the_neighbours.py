"""Whatever is thrown at the sequence service, each caller gets what it deserves and its neighbours their bits."""

import asyncio
import base64
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import details
from tests.hostile_series import tracks, unaries
from tests.integration.bad_series.places import INVALID, Place, refusal, thrown
from tests.series import Caller
from trivium.sequence.v1 import sequence_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="package")
ALLOWED = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION"}


async def test_huge_values_are_answered_or_the_callers_fault(place: Place) -> None:
    for name in ("rnn", "lstm", "digits-rnn", "sunspots-lstm"):
        x = np.array([1e38, -1e38, 3.4e38, 1e-45, 1e38, 3.4e38], np.float32)
        request = pb.TrackRequest(model=name, values=x)
        answers, error = await thrown(place, [request.SerializeToString()])
        if error is not None:
            assert refusal(error, executed="yes") == INVALID
        for answer in answers:
            assert all(math.isfinite(value) for value in answer.values)
            assert all(math.isfinite(ranked.probability) for ranked in answer.classes)
    await place.neighbours_are_well()


EXAMPLES = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """What became of all that was thrown."""
    yield (counted := Counter[str]())
    assert counted.total() >= 2 * EXAMPLES.max_examples * 15
    assert counted["INVALID_ARGUMENT"] > 100
    assert counted["OK"] > 15


@EXAMPLES
@given(data=st.data())
async def test_no_stream_and_no_request_harms_the_service_or_its_neighbours(
    place: Place, tally: Counter[str], data: st.DataObject
) -> None:
    *_, answer = await place.caller.track("lstm", [np.ones((2, 2), np.float32)], return_state=True)
    streams = data.draw(st.lists(tracks(answer.state), min_size=10, max_size=10))
    requests = data.draw(st.lists(unaries(base64.b64encode(answer.state).decode()), min_size=10, max_size=10))
    async with asyncio.timeout(30):
        ends = await asyncio.gather(
            *(tracked(place, sent) for sent in streams),
            *(asked(place.caller, path, sent) for path, sent in requests),
        )
    await place.neighbours_are_well()
    for error in ends:
        if error is None:
            tally["OK"] += 1
            continue
        code, info, _ = details(error)
        tally[code] += 1
        assert code in ALLOWED, (code, error.details())
        assert info.domain == "trivium"
        assert info.metadata["executed"] == ("yes" if "too large for it" in (error.details() or "") else "no")
        assert len(error.details() or "") > 10


async def tracked(place: Place, sent: Sequence[bytes]) -> Any:
    """What a stream of these messages ends with."""
    answers, error = await thrown(place, sent)
    first = answers[0].step if answers else 1
    assert [answer.step for answer in answers] == list(range(first, first + len(answers)))
    if answers and error is not None:
        assert details(error)[1].metadata["step"] == str(answers[-1].step)
    return error


async def asked(caller: Caller, path: str, sent: bytes) -> grpc.aio.AioRpcError | None:
    """What a unary call ends with."""
    try:
        await caller.unary(path, sent)
    except grpc.aio.AioRpcError as error:
        return error
    return None
