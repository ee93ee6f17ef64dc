"""A request that fits no sequence, or is no series, is refused, and the sequences and streams beside it stay."""

from typing import Any

import grpc
import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from services.kit.inference.bundle import Array
from tests.hostile import details
from tests.integration.bad_series.places import INFINITY, NAN, Place, Refusal, refused
from tests.series import INFER, STREAM_INFER, graph_says, infer_request

pytestmark = pytest.mark.asyncio(loop_scope="package")
NOT_STARTED = Refusal("FAILED_PRECONDITION", "SEQUENCE_NOT_STARTED", "parameters.sequence_start")
NO_ID = Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "parameters.sequence_id")
ONE = np.ones((1, 1), np.float32)


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ({}, NO_ID),
        ({"sequence_id": 0, "sequence_start": True}, NO_ID),
        ({"sequence_id": "", "sequence_start": True}, NO_ID),
        ({"sequence_id": -1, "sequence_start": True}, NO_ID),
        ({"sequence_id": "i" * 10_000, "sequence_start": True}, NO_ID),
        ({"sequence_id": True, "sequence_start": True}, NO_ID),
        ({"sequence_id": 404}, NOT_STARTED),
        ({"sequence_id": 404, "sequence_end": True}, NOT_STARTED),
        ({"sequence_id": "404"}, NOT_STARTED),
        ({"sequence_id": 5, "sequence_start": 1}, NOT_STARTED),
    ],
    ids=str,
)
async def test_a_request_that_belongs_to_no_sequence_is_refused(
    place: Place, sequence: dict[str, Any], expected: Refusal
) -> None:
    if sequence.get("sequence_start") == 1 and sequence["sequence_start"] is not True:
        expected = Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "parameters.sequence_start")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await place.caller.infer("rnn", ONE, **sequence)
    code, info, _ = details(caught.value)  # the gateway keeps sequences, and refuses some itself
    assert Refusal(code, info.reason, info.metadata["field"]) == expected
    assert info.metadata["executed"] == "no"
    await place.neighbours_are_well()


@pytest.mark.parametrize("sequence_id", ["i" * 22, "i" * 256, "日本", 2**63 - 1], ids=["22", "256", "wide", "large"])
async def test_a_sequence_is_neither_started_twice_nor_continued_after_its_end(place: Place, sequence_id: Any) -> None:
    async def ask(**flags: bool) -> bytes:
        return (await place.caller.infer("rnn", ONE, sequence_id=sequence_id, **flags))[0]

    async def reason(**flags: bool) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(**flags)
        assert details(caught.value)[0] == "FAILED_PRECONDITION"
        assert details(caught.value)[1].metadata["field"] == "parameters.sequence_start"
        return str(details(caught.value)[1].reason)

    bits = await ask(sequence_start=True)
    assert await reason(sequence_start=True) == "STATE_MISMATCH"
    bits += await ask()
    bits += await ask(sequence_end=True)
    assert bits == graph_says(place.bundles["rnn"], np.ones((3, 1), np.float32)).tobytes()
    for flags in ({}, {"sequence_end": True}):
        assert await reason(**flags) == "SEQUENCE_NOT_STARTED"
    await place.neighbours_are_well()


@pytest.mark.parametrize(
    ("x", "field", "reason"),
    [
        (np.full((2, 1), NAN), "inputs[x]", "INVALID_FIELD"),
        (np.full((2, 1), INFINITY), "inputs[x]", "INVALID_FIELD"),
        (np.zeros((0, 1)), "inputs[x]", "INVALID_FIELD"),
        (np.zeros((4097, 1)), "inputs[x]", "INPUT_TOO_LARGE"),
        (np.zeros((2, 2)), "inputs[x].shape", "INVALID_FIELD"),
    ],
    ids=["NaN", "infinity", "no step", "too many steps", "too wide"],
)
async def test_a_tensor_that_is_no_series_is_refused_and_the_sequence_stays(
    place: Place, x: Array, field: str, reason: str
) -> None:
    bits, _ = await place.caller.infer("rnn", ONE, sequence_id=77, sequence_start=True)
    found = await refused(place.caller.infer("rnn", x, sequence_id=77))
    assert found == Refusal("INVALID_ARGUMENT", reason, field)
    more, _ = await place.caller.infer("rnn", ONE, sequence_id=77, sequence_end=True)
    assert bits + more == graph_says(place.bundles["rnn"], np.ones((2, 1), np.float32)).tobytes()
    await place.neighbours_are_well()


@pytest.mark.parametrize(
    ("x", "field"), [(ONE * NAN, "inputs[x]"), (np.zeros((2, 2)), "inputs[x].shape")], ids=["NaN", "too wide"]
)
async def test_a_last_request_that_is_wrong_ends_its_sequence(place: Place, x: Array, field: str) -> None:
    """Else one that has had all its steps could not be ended."""
    for _ in range(2):
        await place.caller.infer("rnn", ONE, sequence_id=79, sequence_start=True)
        found = await refused(place.caller.infer("rnn", x, sequence_id=79, sequence_end=True))
        assert found == Refusal("INVALID_ARGUMENT", "INVALID_FIELD", field)


async def test_two_rows_are_two_sequences_and_refused(place: Place) -> None:
    request = infer_request("rnn", ONE, sequence_id=78, sequence_start=True)
    request.inputs[0].shape[:] = (2, 1, 1)
    request.raw_input_contents[0] += request.raw_input_contents[0]
    found = await refused(place.caller.unary(INFER, request.SerializeToString()))
    assert found == Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "inputs[x].shape")


async def test_a_bad_request_on_a_stream_of_the_protocol_is_an_answer_and_the_stream_goes_on(place: Place) -> None:
    stream = place.caller.stream(STREAM_INFER)
    requests = [
        infer_request("rnn", ONE, sequence_id=90, sequence_start=True),
        infer_request("rnn", ONE * NAN, sequence_id=90),
        infer_request("rnn", ONE, sequence_id=91),
        infer_request("rnn", ONE, sequence_id=90, sequence_end=True),
        infer_request("rnn", ONE, sequence_id=90),
    ]
    answers = []
    for request in requests:  # one at a time: what waits behind a failure is refused with it
        await stream.call.write(request.SerializeToString())
        answers.append(oip.ModelStreamInferResponse.FromString(await stream.call.read()))
    await stream.call.done_writing()
    assert [bool(answer.error_message) for answer in answers] == [False, True, True, False, True]
    bits = [answers[index].infer_response.raw_output_contents[0] for index in (0, 3)]
    assert b"".join(bits) == graph_says(place.bundles["rnn"], np.ones((2, 1), np.float32)).tobytes()
