"""One request, one answer: outputs, parameters, classes and deadlines of ModelInfer."""

import asyncio
import struct
from typing import Any

import numpy as np
import pytest

from inference import grpc_service_pb2 as pb
from services.kit.call import Call
from services.kit.errors import DeadlineExpired, InvalidField, UnknownParameter
from services.kit.inference.manifest import Manifest
from services.kit.inference.models import Models
from services.kit.inference.oip import OipServicer
from services.kit.inference.oip.responses import ranked
from tests.unit.kit.inference.oip.requests import call, floats, infer


async def test_infer_answers_raw_outputs_in_the_models_order_and_says_what_it_cost(servicer: OipServicer) -> None:
    this = call()
    response = await servicer.model_infer(infer(id="abc", outputs=["difference", "sum", "sum"]), this)

    assert (response.model_name, response.model_version, response.id) == ("add", "3", "abc")
    assert floats(response) == {"sum": [4, 6], "difference": [-2, -2]}
    assert list(floats(response)) == ["sum", "difference"]
    assert [list(output.shape) for output in response.outputs] == [[1, 2], [1, 2]]
    trailers = dict(this.trailers)
    assert (trailers["trivium-model"], trailers["trivium-version"], trailers["trivium-batch-size"]) == ("add", "3", "1")
    assert set(this.stages) == {"decode", "queue", "compute", "encode"}
    assert this.fields["model"] == "add:3"


async def test_only_the_requested_outputs_are_returned(servicer: OipServicer) -> None:
    assert floats(await servicer.model_infer(infer(outputs=["difference"]), call())) == {"difference": [-2, -2]}
    with pytest.raises(InvalidField, match="unexpected inference output 'nope' for model 'add'"):
        await servicer.model_infer(infer(outputs=["nope"]), call())


async def test_the_tools_usual_parameters_are_accepted(servicer: OipServicer) -> None:
    request = infer()
    request.parameters["priority"].uint64_param = 1
    request.parameters["timeout"].int64_param = 10_000_000
    request.parameters["sequence_id"].string_param = "a"
    request.parameters["sequence_start"].bool_param = True
    request.parameters["sequence_end"].bool_param = False
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    assert floats(await servicer.model_infer(request, call()))["sum"] == [4, 6]


async def test_other_parameters_and_wrong_types_are_refused(servicer: OipServicer) -> None:
    for name, says in (("temprature", "parameter 'temprature' is unknown"), ("triton_x", "reserved for Triton usage")):
        request = infer()
        request.parameters[name].int64_param = 1
        with pytest.raises(UnknownParameter, match=says):
            await servicer.model_infer(request, call())

    request = infer()
    request.parameters["priority"].string_param = "high"
    with pytest.raises(InvalidField) as refused:
        await servicer.model_infer(request, call())
    assert "invalid value type for 'priority' parameter, expected int64_param or uint64_param." in str(refused.value)

    request = infer()
    request.parameters["timeout"].int64_param = -1
    with pytest.raises(InvalidField, match="'timeout' must be 0 or more"):
        await servicer.model_infer(request, call())

    request = infer(outputs=["sum"])
    request.outputs[0].parameters["shared_memory_region"].string_param = "x"
    with pytest.raises(UnknownParameter, match="never in shared memory"):
        await servicer.model_infer(request, call())


async def test_the_timeout_parameter_tightens_the_deadline(models: Models[None]) -> None:
    seen = []

    async def never(model: Any, inputs: Any, given: Any, this: Call) -> Any:
        seen.append(this.deadline.remaining_s())
        await asyncio.sleep(3600)

    request = infer()
    request.parameters["timeout"].int64_param = 20_000
    with pytest.raises(DeadlineExpired, match="timeout of 20000 us"):
        await OipServicer(models, lambda: True, never).model_infer(request, call())
    assert 0 < seen[0] <= 0.02


async def test_an_id_of_256_bytes_is_echoed_and_a_longer_one_refused(servicer: OipServicer) -> None:
    assert (await servicer.model_infer(infer(id="é" * 128), call())).id == "é" * 128
    with pytest.raises(InvalidField, match="has 257 bytes and the limit is 256"):
        await servicer.model_infer(infer(id="é" * 128 + "a"), call())


async def test_classification_names_the_best_classes(servicer: OipServicer) -> None:
    request = pb.ModelInferRequest(model_name="colours")
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[0, :, :, 1], pixels[1, :, :, 2] = 255, 51
    request.inputs.add(name="image", datatype="UINT8", shape=pixels.shape)
    request.raw_input_contents.append(pixels.tobytes())
    request.outputs.add(name="logits").parameters["classification"].int64_param = 2

    response = await servicer.model_infer(request, call())

    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [("logits", "BYTES", [2, 2])]
    expected = [b"20.000000:1:green", b"0.000000:0:red", b"4.000000:2:blue", b"0.000000:0:red"]
    assert response.raw_output_contents[0] == b"".join(struct.pack("<I", len(text)) + text for text in expected)

    request.outputs[0].parameters["classification"].int64_param = 101
    with pytest.raises(InvalidField, match=r"'classification' must lie in \[1, 100\], got 101"):
        await servicer.model_infer(request, call())


def test_ranking_takes_no_more_classes_than_there_are_and_integers_as_they_are() -> None:
    assert ranked(np.array([[4, 6]], np.int32), 5, (), batched=True).tolist() == [["6:1", "4:0"]]
    assert ranked(np.array([0.5, 0.25], np.float16), 1, ("a",), batched=False).tolist() == ["0.500000:0:a"]


async def test_a_service_may_compute_in_its_own_way(models: Models[None]) -> None:
    async def doubled(model: Any, inputs: Any, given: Any, this: Call) -> Any:
        output = await model.batcher.submit({name: array * 2 for name, array in inputs.items()}, this.deadline)
        return output, {"trivium_state": given["trivium_state"].string_param + "!"}

    request = infer()
    request.parameters["trivium_state"].string_param = "kept"
    response = await OipServicer(models, lambda: True, doubled).model_infer(request, call())
    assert floats(response)["sum"] == [8, 12]
    assert response.parameters["trivium_state"].string_param == "kept!"


async def test_texts_have_no_classes(models: Models[None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Manifest, "decoupled", True)
    request = infer(outputs=["sum"])
    request.outputs[0].parameters["classification"].int64_param = 2
    with pytest.raises(InvalidField, match="output 'sum' of model 'add' has no classes"):
        await OipServicer(models, lambda: True).model_infer(request, call())
