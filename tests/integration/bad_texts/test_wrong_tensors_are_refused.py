"""Texts by the Open Inference Protocol: each parameter and tensor is checked, and a stream outlives a bad request."""

import math
from typing import Any

import grpc
import pytest

from inference import grpc_service_pb2 as oip
from tests.integration.bad_texts.places import LIMIT_S, Place, Refusal, refused
from tests.texts import INFER, STREAM_INFER, infer_request, inferred

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_text_of_the_protocol_that_is_no_utf8_is_refused(place: Place) -> None:
    request = infer_request("gpt", "a", 4)
    request.inputs[0].contents.bytes_contents[0] = b"\xff\xfe"
    assert (await refused(place.caller.unary(INFER, request))).code == "INVALID_ARGUMENT"
    raw = infer_request("scripts", "a", 4)
    del raw.inputs[:]
    raw.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    raw.raw_input_contents.append(b"\x02\0\0\0\xff\xfe")
    assert (await refused(place.caller.unary(INFER, raw))).code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("given", "name", "reason"),
    [
        ({"unheard_of": 1}, "parameters", "UNKNOWN_PARAMETER"),
        ({"max_new_tokens": 1}, "parameters", "UNKNOWN_PARAMETER"),
        ({"triton_enable": True}, "parameters", "UNKNOWN_PARAMETER"),
        ({"temperature": "1"}, "parameters.temperature", "INVALID_FIELD"),
        ({"temperature": True}, "parameters.temperature", "INVALID_FIELD"),
        ({"temperature": math.nan}, "parameters.temperature", "INVALID_FIELD"),
        ({"top_p": 1e300}, "parameters.top_p", "INVALID_FIELD"),
        ({"seed": 1.0}, "parameters.seed", "INVALID_FIELD"),
        ({"seed": -1}, "parameters.seed", "INVALID_FIELD"),
        ({"top_k": 2**40}, "parameters.top_k", "INVALID_FIELD"),
        ({"top_k": 65}, "parameters.top_k", "INVALID_FIELD"),
        ({"stop": 1}, "parameters.stop", "INVALID_FIELD"),
        ({"stop": ""}, "parameters.stop[0]", "INVALID_FIELD"),
        ({"ignore_eos": 1}, "parameters.ignore_eos", "INVALID_FIELD"),
        ({"min_new_tokens": -1}, "parameters.min_new_tokens", "INVALID_FIELD"),
        ({"priority": 202}, "parameters.priority", "INVALID_FIELD"),
        ({"priority": -1}, "parameters.priority", "INVALID_FIELD"),
        ({"priority": 1.0}, "parameters.priority", "INVALID_FIELD"),
        ({"timeout": -1}, "parameters.timeout", "INVALID_FIELD"),
        ({"continue_from": 7}, "parameters.continue_from", "INVALID_FIELD"),
        ({"continue_from": "7;8"}, "parameters.continue_from", "INVALID_FIELD"),
        ({"continue_from": "1,99999"}, "parameters.continue_from", "INVALID_FIELD"),
        ({"continue_from": "1" + ",1" * 300}, "parameters.continue_from", "INPUT_TOO_LARGE"),
        ({"continue_from": "1", "temperature": 1.0}, "parameters.seed", "INVALID_FIELD"),
    ],
    ids=str,
)
async def test_a_parameter_of_the_protocol_is_known_and_of_its_type(
    place: Place, given: dict[str, Any], name: str, reason: str
) -> None:
    found = await refused(place.caller.infer("gpt", "a", 4, **given))
    assert found == Refusal("INVALID_ARGUMENT", reason, name)


async def test_a_request_of_the_protocol_with_wrong_tensors_is_refused(place: Place) -> None:
    def wrong(number: int, **fields: Any) -> oip.ModelInferRequest:
        request = infer_request("gpt", "a", 4)
        for key, value in fields.items():
            if key == "shape":
                request.inputs[number].shape[:] = value
            else:
                setattr(request.inputs[number], key, value)
        return request

    missing = infer_request("gpt", "a", 4)
    del missing.inputs[1]
    requests = [
        wrong(0, datatype="INT32"),
        wrong(1, datatype="INT64"),
        wrong(0, shape=[1, 1]),
        wrong(0, shape=[2]),
        wrong(1, shape=[]),
        wrong(1, name="max_new_tokens"),
        missing,
        infer_request("gpt", "a", -1),
        infer_request("gpt", "a", 256),
        infer_request("recite", "", 4),
    ]
    for request in requests:
        assert (await refused(place.caller.unary(INFER, request))).code == "INVALID_ARGUMENT"
    assert (await refused(place.caller.infer("scripts", "a", 4))).code == "INVALID_ARGUMENT"
    empty = await place.caller.infer("gpt", "a", 0)
    assert inferred(empty) == ("", [])
    await place.neighbours_are_well()


async def test_a_bad_request_on_a_stream_of_the_protocol_is_an_answer_and_the_stream_goes_on(place: Place) -> None:
    call: Any = place.caller.channel.stream_stream(STREAM_INFER)(timeout=LIMIT_S)
    requests = [
        infer_request("gpt", "a", 6, seed=1),
        infer_request("gpt", "a", 6, seed=-1),
        infer_request("gpt", "a", -6),
        infer_request("nope", "a", 6),
        infer_request("gpt", "a", 6, seed=1),
    ]
    ends, tokens = list[str](), list[list[int]]()
    for number, request in enumerate(requests):
        request.id = str(number)
        await call.write(request.SerializeToString())
        tokens.append([])
        while True:
            answer = oip.ModelStreamInferResponse.FromString(await call.read())
            assert answer.infer_response.id == str(number)
            if answer.error_message:
                ends.append(answer.error_message)
                break
            tokens[-1] += inferred(answer.infer_response)[1]
            if answer.infer_response.parameters["triton_final_response"].bool_param:
                ends.append("")
                break
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert [bool(end) for end in ends] == [False, True, True, True, False]
    assert tokens[0] == tokens[4]
    assert len(tokens[0]) == 6
