import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.rpc import code_pb2
from prometheus_client import CollectorRegistry

from inference import grpc_service_pb2 as pb
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import (
    DeadlineExpired,
    Draining,
    InvalidField,
    ModelNotFound,
    TriviumError,
    UnknownMethod,
    UnknownParameter,
)
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.engine import EngineSettings
from services.kit.inference.job import Output
from services.kit.inference.loading import ModelsSettings, batched
from services.kit.inference.manifest import Manifest
from services.kit.inference.models import Models
from services.kit.inference.oip import Answer, OipServicer, not_offered
from services.kit.inference.oip.responses import ranked
from services.kit.open_inference import ENDS_WITH_STATUS
from services.kit.transport.method import methods_of
from tests import bundles as tiny

SETTINGS = BatcherSettings(max_batch=8, max_wait_ms=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    tiny.add(folder, version=1, datatype="FP32", width=-1)
    tiny.add(folder, version=3, datatype="FP32", width=-1)
    tiny.fixed(folder)
    tiny.colours(folder)
    tiny.slow(folder, rounds=1)
    return folder


@pytest.fixture
async def models(folder: Path) -> AsyncIterator[Models[None]]:
    settings = ModelsSettings("vision", (folder,), "add", EngineSettings(device="cpu", threads=1), SETTINGS)
    async with Models.open(settings, batched(lambda manifest: None), CollectorRegistry()) as models:
        yield models


@pytest.fixture
def servicer(models: Models[None]) -> OipServicer:
    return OipServicer(models, lambda: True)


def call() -> Call:
    return Call("/inference.GRPCInferenceService/ModelInfer", Deadline.after(30))


def infer(model: str = "add", *, id: str = "", version: str = "", outputs: Iterable[str] = ()) -> Any:
    """a = [1, 2], b = [3, 4]."""
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    for name, values in (("a", (1, 2)), ("b", (3, 4))):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 2])
        request.raw_input_contents.append(struct.pack("<2f", *values))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def floats(response: pb.ModelInferResponse) -> dict[str, list[float]]:
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {output.name: np.frombuffer(raw, np.float32).tolist() for output, raw in pairs}


def test_every_rpc_of_the_service_is_there(models: Models[None]) -> None:
    served = methods_of(OipServicer(models, lambda: True))
    assert {path.rpartition("/")[2] for path in served} == {method.name for method in OipServicer.service.methods}


async def test_server_live_ready_and_metadata(models: Models[None]) -> None:
    for ready in (True, False):
        servicer = OipServicer(models, lambda ready=ready: ready)  # type: ignore[misc]
        assert (await servicer.server_live(pb.ServerLiveRequest(), call())).live
        assert (await servicer.server_ready(pb.ServerReadyRequest(), call())).ready is ready
    metadata = await servicer.server_metadata(pb.ServerMetadataRequest(), call())
    assert metadata.name == "trivium"
    assert metadata.version.count(".") == 2
    assert "statistics" in metadata.extensions
    assert not [name for name in metadata.extensions if "shared_memory" in name or name == "trace"]


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("add", "", True), ("add", "3", True), ("add", "9", False), ("nope", "", False), ("", "", False)],
)
async def test_an_unknown_model_is_not_ready(servicer: OipServicer, name: str, version: str, ready: bool) -> None:
    assert (await servicer.model_ready(pb.ModelReadyRequest(name=name, version=version), call())).ready is ready


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("x", "failed to get model version from specified version string 'x' (details: stol), version should be"),
        ("-1", "invalid model version specified '-1' , version should be an integral value > 0"),
        ("0", "invalid model version specified '0' , version should be an integral value > 0"),
        ("9" * 40, "version should be an integral value > 0"),
        ("٣", "version should be an integral value > 0"),
    ],
)
async def test_a_malformed_version_is_refused_everywhere(servicer: OipServicer, version: str, says: str) -> None:
    requests = [
        servicer.model_ready(pb.ModelReadyRequest(name="add", version=version), call()),
        servicer.model_metadata(pb.ModelMetadataRequest(name="add", version=version), call()),
        servicer.model_config(pb.ModelConfigRequest(name="add", version=version), call()),
        servicer.model_statistics(pb.ModelStatisticsRequest(name="add", version=version), call()),
        servicer.model_infer(infer(version=version), call()),
    ]
    for awaitable in requests:
        with pytest.raises(InvalidField) as refused:
            await awaitable
        assert says in str(refused.value)


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("add", "9", "Request for unknown model: 'add' version 9 is not found"),
        ("nope", "", "Request for unknown model: 'nope' is not found"),
        ("", "", "Request for unknown model: '' is not found"),
    ],
)
async def test_an_unknown_model_is_not_found(servicer: OipServicer, name: str, version: str, says: str) -> None:
    requests = [
        servicer.model_metadata(pb.ModelMetadataRequest(name=name, version=version), call()),
        servicer.model_config(pb.ModelConfigRequest(name=name, version=version), call()),
        servicer.model_infer(infer(name, version=version), call()),
    ]
    for awaitable in requests:
        with pytest.raises(ModelNotFound) as refused:
            await awaitable
        assert says in str(refused.value)


async def test_metadata_has_the_batch_and_config_leaves_it_out(servicer: OipServicer) -> None:
    metadata = await servicer.model_metadata(pb.ModelMetadataRequest(name="add"), call())
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("add", ["1", "3"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("a", "FP32", [-1, -1]),
        ("b", "FP32", [-1, -1]),
    ]
    assert [t.name for t in metadata.outputs] == ["sum", "difference"]

    config = (await servicer.model_config(pb.ModelConfigRequest(name="add"), call())).config
    assert (config.name, config.max_batch_size, config.backend) == ("add", 8, "onnxruntime")
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [
        ("a", pb.TYPE_FP32, [-1]),
        ("b", pb.TYPE_FP32, [-1]),
    ]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert not config.model_transaction_policy.decoupled
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU

    config = (await servicer.model_config(pb.ModelConfigRequest(name="fixed"), call())).config
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 3])
    assert config.WhichOneof("scheduling_choice") is None


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


async def stream(servicer: OipServicer, *requests: Any) -> list[Any]:
    async def sent() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    return [response async for response in servicer.model_stream_infer(sent(), call())]


async def test_a_stream_answers_in_order_and_outlives_an_error(servicer: OipServicer) -> None:
    slow = pb.ModelInferRequest(model_name="slow", id="first")
    slow.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    slow.raw_input_contents.append(struct.pack("<f", 30))  # 30 rounds

    answers = await stream(servicer, slow, infer(id="second"), infer("nope", id="third"), infer(id="fourth"))

    assert [answer.infer_response.id for answer in answers] == ["first", "second", "third", "fourth"]
    failed = answers.pop(2)
    assert failed.error_message == "Request for unknown model: 'nope' is not found"
    assert not failed.infer_response.outputs
    assert all(a.infer_response.parameters["triton_final_response"].bool_param for a in answers)
    assert not any(answer.error_message for answer in answers)
    assert await stream(servicer) == []


async def test_a_stream_ends_with_the_status_of_the_first_failure_where_its_caller_wants_that(
    servicer: OipServicer,
) -> None:
    async def sent() -> AsyncIterator[Any]:
        for name in ("add", "nope", "add"):
            yield infer(name)

    wanting = Call("/inference.GRPCInferenceService/ModelStreamInfer", Deadline.after(30), (ENDS_WITH_STATUS,))
    answers = servicer.model_stream_infer(sent(), wanting)
    assert not (await anext(answers)).error_message
    with pytest.raises(ModelNotFound):
        await anext(answers)


class Several:
    """Gives two answers to each request, and fails with the second one where that is wished for."""

    parameters: Mapping[str, tuple[str, ...]] = {"breaks": ("bool_param",)}

    def __init__(self) -> None:
        self.deadlines: list[Deadline] = []

    async def answers(self, model: Any, inputs: Any, given: Any, this: Call) -> AsyncGenerator[Answer, None]:
        self.deadlines.append(this.deadline)
        output = Output({"sum": inputs["a"], "difference": inputs["a"]}, 0.0, 0.0, 1)
        yield Answer(output, {}, final=False)
        if "breaks" in given:
            raise Draining("leaving")
        yield Answer(output, {}, final=True)


@pytest.mark.parametrize("ends", [False, True])
async def test_a_failure_after_some_answers_is_a_message_or_the_status_of_the_stream(
    models: Models[None], monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(Manifest, "decoupled", True)
    servicer = OipServicer(models, lambda: True, decoupled=Several())
    breaks = infer(id="b")
    breaks.parameters["breaks"].bool_param = True

    async def sent() -> AsyncIterator[Any]:
        yield breaks

    metadata = (ENDS_WITH_STATUS,) if ends else ()
    found, failure = [], None
    try:
        async for answer in servicer.model_stream_infer(sent(), Call("/", Deadline.after(30), metadata)):
            found.append((answer.infer_response.id, answer.error_message))
    except Draining as error:
        failure = error
    assert found == [("b", ""), *([] if ends else [("b", "leaving")])]
    assert (failure is not None) == ends


async def test_the_timeout_of_a_request_with_several_answers_is_its_own(
    models: Models[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manifest, "decoupled", True)
    several = Several()
    hasty, patient = infer(id="a"), infer(id="b")
    hasty.parameters["timeout"].int64_param, patient.parameters["timeout"].uint64_param = 5_000_000, 2**64 - 1
    await stream(OipServicer(models, lambda: True, decoupled=several), hasty, infer(id="c"), patient)
    left_s = sorted(deadline.remaining_s() for deadline in several.deadlines)
    assert 4 < left_s[0] <= 5
    assert 25 < left_s[1] <= left_s[2] <= 30


async def test_texts_have_no_classes(models: Models[None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Manifest, "decoupled", True)
    request = infer(outputs=["sum"])
    request.outputs[0].parameters["classification"].int64_param = 2
    with pytest.raises(InvalidField, match="output 'sum' of model 'add' has no classes"):
        await OipServicer(models, lambda: True).model_infer(request, call())


async def test_our_own_fault_on_a_stream_tells_the_caller_nothing_of_it(models: Models[None]) -> None:
    async def broken(model: Any, inputs: Any, given: Any, this: Call) -> Any:
        raise ZeroDivisionError("a secret")

    [answer] = await stream(OipServicer(models, lambda: True, broken), infer(id="1"))
    assert answer.error_message.startswith("internal error")
    assert answer.infer_response.id == "1"


async def test_requests_of_a_stream_share_a_run(servicer: OipServicer, models: Models[None]) -> None:
    await stream(servicer, *(infer(id=str(number)) for number in range(64)))
    counted = models.find("add").batcher.statistics
    assert counted.success.count == 64
    assert counted.executions < 64


async def test_statistics_of_one_version_of_a_model_or_of_all(servicer: OipServicer) -> None:
    await servicer.model_infer(infer(), call())
    await servicer.model_infer(infer(version="1"), call())

    async def counted(name: str = "", version: str = "") -> Any:
        request = pb.ModelStatisticsRequest(name=name, version=version)
        return (await servicer.model_statistics(request, call())).model_stats

    [one] = await counted("add", "3")
    assert (one.name, one.version, one.inference_count, one.execution_count) == ("add", "3", 1, 1)
    stats = one.inference_stats
    assert (stats.success.count, stats.queue.count, stats.compute_infer.count, stats.fail.count) == (1, 1, 1, 0)
    assert stats.success.ns >= stats.compute_infer.ns > 0
    assert [(batch.batch_size, batch.compute_infer.count) for batch in one.batch_stats] == [(1, 1)]
    assert [(stats.name, stats.version) for stats in await counted("add")] == [("add", "1"), ("add", "3")]
    assert len(await counted()) == 5
    with pytest.raises(ModelNotFound):
        await counted("nope")
    with pytest.raises(ModelNotFound):
        await counted("add", "9")


async def test_the_index_follows_load_and_unload(servicer: OipServicer) -> None:
    async def index(**arguments: Any) -> list[tuple[str, str, str]]:
        found = await servicer.repository_index(pb.RepositoryIndexRequest(**arguments), call())
        return [(entry.name, entry.version, entry.state) for entry in found.models]

    assert [entry[:2] for entry in await index()][:2] == [("add", "1"), ("add", "3")]
    request = pb.RepositoryModelUnloadRequest(model_name="add")
    request.parameters["unload_dependents"].bool_param = True
    await servicer.repository_model_unload(request, call())
    assert (await index())[:2] == [("add", "1", "UNAVAILABLE"), ("add", "3", "UNAVAILABLE")]
    assert {name for name, _, _ in await index(ready=True)} == {"colours", "fixed", "slow"}
    await servicer.repository_model_load(pb.RepositoryModelLoadRequest(model_name="add"), call())
    assert (await index())[:2] == [("add", "1", "READY"), ("add", "3", "READY")]


async def test_another_repository_is_not_supported(servicer: OipServicer) -> None:
    for awaitable in (
        servicer.repository_index(pb.RepositoryIndexRequest(repository_name="x"), call()),
        servicer.repository_model_load(pb.RepositoryModelLoadRequest(repository_name="x", model_name="add"), call()),
        servicer.repository_model_unload(
            pb.RepositoryModelUnloadRequest(repository_name="x", model_name="add"), call()
        ),
    ):
        with pytest.raises(UnknownMethod, match="'repository_name' specification is not supported"):
            await awaitable


async def test_load_takes_names_only_and_no_configuration(servicer: OipServicer) -> None:
    with pytest.raises(InvalidField, match="is no name of a bundle"):
        await servicer.repository_model_load(pb.RepositoryModelLoadRequest(model_name="../add"), call())
    request = pb.RepositoryModelLoadRequest(model_name="add")
    request.parameters["config"].string_param = "{}"
    with pytest.raises(UnknownParameter, match="parameter 'config' is unknown"):
        await servicer.repository_model_load(request, call())


async def test_what_is_not_offered_says_so() -> None:
    table = not_offered()
    assert "/inference.GRPCInferenceService/CudaSharedMemoryRegister" in table
    for path, method in table.items():
        with pytest.raises(TriviumError) as refused:
            await method.handler(b"", Call(path, Deadline()))
        assert refused.value.code == code_pb2.UNIMPLEMENTED
        assert method.path == path
