"""Tensors and streams pass through the gateway to the bit, and a bad item never touches its neighbours."""

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2

from inference import grpc_service_pb2 as oip
from services.kit.inference.datatypes import NUMPY
from services.kit.inference.tensors import FIELD_OF
from tests.integration.gateway.calls import INFERENCE, RED, VALUES, VISION, Gateway, fails, infer
from trivium.vision.v1 import vision_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_tensors_go_in_and_come_out(gateway: Gateway) -> None:
    answer = await gateway.inference("ModelInfer", infer("identity", id="abc"))
    assert (answer.model_name, answer.model_version, answer.id) == ("identity", "1", "abc")
    assert answer.raw_output_contents[0] == np.array([1, 2, 3, 4], np.float32).tobytes()


def same(datatype: str) -> Any:
    """A request to the identity bundle of that datatype, without contents."""
    request = oip.ModelInferRequest(model_name=f"same-{datatype.lower()}")
    request.inputs.add(name="x", datatype=datatype, shape=[1, 3])
    return request


def raw_of(datatype: str) -> bytes:
    """The three values as raw contents have them."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in VALUES[datatype])
    return np.array(VALUES[datatype], NUMPY[datatype]).tobytes()


@pytest.mark.parametrize("datatype", list(VALUES))
async def test_raw_tensors_of_every_datatype_come_back_to_the_bit(gateway: Gateway, datatype: str) -> None:
    request = same(datatype)
    request.raw_input_contents.append(raw_of(datatype))
    answer = await gateway.inference("ModelInfer", request)
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [1, 3])
    assert list(answer.raw_output_contents) == [raw_of(datatype)]


@pytest.mark.parametrize("datatype", [datatype for datatype in VALUES if datatype != "FP16"])
async def test_typed_tensors_of_every_datatype_come_back_to_the_bit(gateway: Gateway, datatype: str) -> None:
    request = same(datatype)
    getattr(request.inputs[0].contents, FIELD_OF[datatype]).extend(VALUES[datatype])
    answer = await gateway.inference("ModelInfer", request)
    assert list(answer.raw_output_contents) == [raw_of(datatype)]


async def test_the_protocol_has_no_typed_half_floats(gateway: Gateway) -> None:
    request = same("FP16")
    request.inputs[0].contents.fp32_contents.extend(VALUES["FP16"])
    assert await fails(gateway.inference("ModelInfer", request)) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_a_stream_of_images_answers_each_and_its_errors_too(gateway: Gateway) -> None:
    images = {str(number): RED if number % 5 else b"broken" for number in range(60)}

    async def requests() -> AsyncIterator[bytes]:
        for number, image in images.items():
            model = "colours" if number == "0" else ""
            yield vision_pb2.ClassifyStreamRequest(model=model, id=number, image=image).SerializeToString()

    call = gateway.channel.stream_stream(f"/{VISION}/ClassifyStream")(requests(), timeout=20)
    answers = [vision_pb2.ClassifyStreamResponse.FromString(answer) async for answer in call]
    assert sorted(answer.id for answer in answers) == sorted(images)
    for answer in answers:
        if images[answer.id] == RED:
            assert answer.result.classes[0].label == "red"
        else:
            assert isinstance(answer.error, status_pb2.Status)
            assert answer.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_a_stream_of_tensors_may_name_another_model_each_time(gateway: Gateway) -> None:
    requests = [infer("identity", id="1"), infer("nope", id="2"), infer("going", id="3"), infer("identity", id="4")]
    messages = iter([request.SerializeToString() for request in requests])
    call = gateway.channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")(messages, timeout=20)
    answers = [oip.ModelStreamInferResponse.FromString(answer) async for answer in call]
    by_id = {answer.infer_response.id: answer for answer in answers}
    assert by_id["2"].error_message == "Request for unknown model: 'nope' is not found"
    assert [by_id[number].infer_response.model_name for number in "134"] == ["identity", "going", "identity"]


async def test_a_bad_item_never_touches_its_neighbours(gateway: Gateway) -> None:
    """Tensors that make the whole run fail, among good ones that share the batch."""

    def request(value: int) -> Any:
        made = oip.ModelInferRequest(model_name="picky", id=str(value))
        made.inputs.add(name="x", datatype="INT64", shape=[1, 1])
        made.raw_input_contents.append(np.array([value], np.int64).tobytes())
        return made

    async def outcome(value: int) -> float | str:
        try:
            answer = await gateway.inference("ModelInfer", request(value))
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])

    values = [number % 10 if number % 7 else 99 for number in range(100)]
    results = await asyncio.gather(*(outcome(value) for value in values))
    for value, result in zip(values, results, strict=True):
        if value == 99:
            assert isinstance(result, str)
        else:
            assert result == value * 10
