"""Two vision instances behind one gateway: what callers see is one server."""

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference import grpc_service_pb2 as oip
from services.kit.inference import bundle as bundle_files
from services.kit.inference.datatypes import NUMPY
from services.kit.inference.tensors import FIELD_OF
from tests import bundles
from tests.harness import OPTIONS, Replica, Suite, error_info, serving
from tests.hostile import REFUSALS, THROWN, details
from tests.images import png
from trivium.models.v1 import models_pb2
from trivium.vision.v1 import vision_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

VISION, MODELS, INFERENCE = (
    "trivium.vision.v1.VisionService",
    "trivium.models.v1.ModelService",
    "inference.GRPCInferenceService",
)
RED = png((220, 30, 30))
VALUES: dict[str, list[Any]] = {  # three of each datatype
    "FP16": [1.5, -2.0, 65504.0],
    "FP32": [1.5, -3e38, 0.0],
    "INT8": [-128, 0, 127],
    "UINT8": [0, 128, 255],
    "INT32": [-(2**31), 0, 2**31 - 1],
    "INT64": [-(2**63), 0, 2**63 - 1],
    "BOOL": [True, False, True],
    "BYTES": [b"", "日本".encode(), b"a\0b"],
}
COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
MIB = 1024 * 1024


class Gateway:
    """A caller of the gateway, and the suite behind it."""

    def __init__(self, suite: Suite, replica: Replica, channel: Any) -> None:
        self.suite, self.replica, self.channel = suite, replica, channel

    def start(self, service: str, method: str, request: Any, **options: Any) -> Any:
        """The call, under way."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return self.channel.unary_unary(f"/{service}/{method}")(data, **{"timeout": 10, **options})

    async def classify(self, image: bytes = RED, model: str = "colours", **options: Any) -> Any:
        """The answer of Classify."""
        call = self.start(VISION, "Classify", vision_pb2.ClassifyRequest(model=model, image=image), **options)
        return vision_pb2.ClassifyResponse.FromString(await call)

    async def trailers(self, model: str = "colours") -> dict[str, str]:
        """Trailing metadata of one Classify."""
        call = self.start(VISION, "Classify", vision_pb2.ClassifyRequest(model=model, image=RED))
        await call
        return dict(tuple(await call.trailing_metadata()))

    async def inference(self, method: str, request: Any) -> Any:
        """The answer of a method of the Open Inference Protocol."""
        return getattr(oip, f"{method}Response").FromString(await self.start(INFERENCE, method, request))

    async def models(self, name: str = "") -> list[Any]:
        """What ListModels says."""
        answer = await self.start(MODELS, "ListModels", models_pb2.ListModelsRequest(model=name))
        return list(models_pb2.ListModelsResponse.FromString(answer).models)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    make_bundles(folder / "bundles")
    async with Suite.open(folder) as suite:
        names = ("vision-1", "vision-2")
        await asyncio.gather(*(suite.start("vision", name, BUNDLES_DIR=folder / "bundles") for name in names))
        replica = await suite.start_gateway()
        await serving(replica.address, "model/colours")
        async with grpc.aio.insecure_channel(replica.address, options=OPTIONS) as channel:
            yield Gateway(suite, replica, channel)


def make_bundles(folder: Path) -> None:
    bundles.colours(folder, version=1)
    bundles.colours(folder, version=2)
    bundle_files.write_labels(folder / "colours", {"stable": 1, "canary": 2})
    bundles.identity(folder)
    bundles.identity(folder, "going")
    bundles.add(folder)
    bundles.picky(folder)
    for datatype in VALUES:
        bundles.identity(folder, f"same-{datatype.lower()}", datatype=datatype, width=3)


def infer(model: str, version: str = "", values: tuple[float, ...] = (1, 2, 3, 4), **fields: Any) -> Any:
    """A request to an identity bundle."""
    data = np.array(values, np.float32)
    request = oip.ModelInferRequest(model_name=model, model_version=version, **fields)
    request.inputs.add(name="x", datatype="FP32", shape=[1, len(values)])
    request.raw_input_contents.append(data.tobytes())
    return request


async def fails(awaitable: Any) -> tuple[str, str]:
    """Code and reason of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value.code().name, error_info(caught.value).reason


async def test_an_answer_says_who_gave_it_and_where_its_time_went(gateway: Gateway) -> None:
    trailers = await gateway.trailers()
    assert (trailers["trivium-model"], trailers["trivium-version"]) == ("colours", "2")
    assert trailers["trivium-instance"] in ("vision-1", "vision-2")
    assert trailers["trivium-attempts"] == "1"
    for key in ("trivium-queue-us", "trivium-compute-us", "trivium-batch-size"):
        assert int(trailers[key]) >= 0


async def test_both_instances_get_calls(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(gateway.trailers() for _ in range(60)))
    assert {answer["trivium-instance"] for answer in answers} == {"vision-1", "vision-2"}


@pytest.mark.parametrize(
    ("model", "version"), [("colours", "2"), ("colours:1", "1"), ("colours@stable", "1"), ("colours@canary", "2")]
)
async def test_a_name_a_version_and_a_label_find_their_model(gateway: Gateway, model: str, version: str) -> None:
    assert (await gateway.trailers(model))["trivium-version"] == version


async def test_an_empty_name_is_the_services_default(gateway: Gateway) -> None:
    assert (await gateway.trailers(""))["trivium-model"] == "digits-cnn"


@pytest.mark.parametrize(
    ("model", "code", "reason"),
    [
        ("nobody", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("colours:9", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("colours@nothing", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("colours:x", "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("colours:0", "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("identity", "UNIMPLEMENTED", "UNSUPPORTED_BY_MODEL"),
    ],
)
async def test_a_wrong_model_is_told_apart(gateway: Gateway, model: str, code: str, reason: str) -> None:
    assert await fails(gateway.classify(model=model)) == (code, reason)


async def test_an_instances_error_passes_unchanged(gateway: Gateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.classify(image=b"no image at all")
    info = error_info(caught.value)
    assert (caught.value.code().name, info.reason) == ("INVALID_ARGUMENT", "IMAGE_UNREADABLE")
    assert info.metadata["instance"].startswith("vision-")
    assert (info.metadata["stage"], info.metadata["executed"]) == ("decode", "no")


@pytest.mark.parametrize("data", [b"\xff" * 30, b"\x0a\xff", b"\x0a\x02\xff\xfe\x12\x01x"])
async def test_garbage_is_malformed(gateway: Gateway, data: bytes) -> None:
    assert await fails(gateway.start(VISION, "Classify", data)) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert await fails(gateway.start(INFERENCE, "ModelInfer", data)) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")


async def test_a_message_of_100_mb_is_refused_and_the_connection_stays(gateway: Gateway) -> None:
    code, _ = await fails(gateway.classify(image=bytes(100 * MIB)))
    assert code == "RESOURCE_EXHAUSTED"
    assert (await gateway.classify()).classes[0].label == "red"


async def test_a_deadline_of_zero_is_exceeded(gateway: Gateway) -> None:
    """With a large image: the transport sends no timeout below a millisecond, and a quick answer would arrive."""
    assert (await fails(gateway.classify(image=png((220, 30, 30), (3000, 3000)), timeout=0)))[0] == "DEADLINE_EXCEEDED"
    assert (await gateway.classify()).classes[0].label == "red"


async def test_an_unknown_method_names_what_there_is(gateway: Gateway) -> None:
    """Many at once: a stream that an instance ends while it is still written to keeps the instance's status."""
    calls = [gateway.start(service, "Paint", b"") for service in (VISION, "no.such.Service") for _ in range(100)]
    outcomes = await asyncio.gather(*(fails(call) for call in calls))
    assert set(outcomes) == {("UNIMPLEMENTED", "UNKNOWN_METHOD")}


async def test_every_model_is_listed_once(gateway: Gateway) -> None:
    listed = [(model.name, model.version) for model in await gateway.models()]
    assert listed == sorted(set(listed))
    assert {("colours", 1), ("colours", 2), ("digits-cnn", 1), ("identity", 1)} <= set(listed)
    stable = next(model for model in await gateway.models("colours") if model.version == 1)
    assert (list(stable.labels), list(stable.classes), stable.service) == (
        ["stable"],
        ["red", "green", "blue"],
        "vision",
    )


async def test_a_models_card_comes_from_an_instance(gateway: Gateway) -> None:
    answer = await gateway.start(MODELS, "GetModel", models_pb2.GetModelRequest(model="digits-cnn"))
    assert "accuracy" in models_pb2.GetModelResponse.FromString(answer).model.card_json


async def test_the_repository_index_lists_the_same(gateway: Gateway) -> None:
    index = (await gateway.inference("RepositoryIndex", oip.RepositoryIndexRequest())).models
    assert ("colours", "2", "READY") in {(model.name, model.version, model.state) for model in index}


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("colours", "", True), ("colours", "1", True), ("colours", "9", False), ("no", "", False)],
)
async def test_a_model_is_ready_where_an_instance_has_it(
    gateway: Gateway, name: str, version: str, ready: bool
) -> None:
    request = oip.ModelReadyRequest(name=name, version=version)
    assert (await gateway.inference("ModelReady", request)).ready is ready


async def test_the_server_is_live_and_ready_and_says_who_it_is(gateway: Gateway) -> None:
    assert (await gateway.inference("ServerLive", oip.ServerLiveRequest())).live
    assert (await gateway.inference("ServerReady", oip.ServerReadyRequest())).ready
    assert (await gateway.inference("ServerMetadata", oip.ServerMetadataRequest())).name == "trivium"


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


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """What became of all the requests that were thrown."""
    yield (counted := Counter[str]())
    assert counted.total() >= 400
    assert counted["INVALID_ARGUMENT"] > 100


@settings(max_examples=16, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(thrown=st.lists(THROWN, min_size=25, max_size=25), colour=st.sampled_from(sorted(COLOURS)))
async def test_no_request_harms_the_gateway_or_its_neighbours(
    gateway: Gateway, tally: Counter[str], thrown: list[tuple[str, bytes]], colour: str
) -> None:
    calls = [gateway.channel.unary_unary(path)(data, timeout=20) for path, data in thrown]
    assert (await gateway.classify(png(COLOURS[colour]))).classes[0].label == colour
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, bytes):
            tally["OK"] += 1
            continue
        code, info, _ = details(outcome)
        tally[code] += 1
        assert code in REFUSALS, (code, outcome)
        assert (info.domain, info.metadata["executed"]) == ("trivium", "no")
        assert info.metadata["instance"]
        assert info.reason


async def test_an_unknown_model_has_tritons_words(gateway: Gateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.inference("ModelInfer", infer("nope"))
    assert caught.value.details() == "Request for unknown model: 'nope' is not found"
    assert (caught.value.code().name, error_info(caught.value).reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")


async def count(gateway: Gateway, model: str) -> tuple[int, int]:
    """Successful requests and computed rows of a model, over all instances."""
    answer = await gateway.inference("ModelStatistics", oip.ModelStatisticsRequest(name=model, version="1"))
    return answer.model_stats[0].inference_stats.success.count, answer.model_stats[0].inference_count


async def test_statistics_are_those_of_all_instances(gateway: Gateway) -> None:
    before = await count(gateway, "identity")
    await asyncio.gather(*(gateway.inference("ModelInfer", infer("identity")) for _ in range(40)))
    after = await count(gateway, "identity")
    assert (after[0] - before[0], after[1] - before[1]) == (40, 40)


async def test_statistics_of_an_unknown_model_are_not_found(gateway: Gateway) -> None:
    request = oip.ModelStatisticsRequest(name="nope")
    assert (await fails(gateway.inference("ModelStatistics", request)))[0] == "NOT_FOUND"


async def test_unloading_takes_a_model_from_every_instance_and_loading_brings_it_back(gateway: Gateway) -> None:
    await gateway.start(MODELS, "UnloadModel", models_pb2.UnloadModelRequest(model="going"))
    assert await fails(gateway.inference("ModelInfer", infer("going"))) == ("UNAVAILABLE", "NO_INSTANCE")
    index = (await gateway.inference("RepositoryIndex", oip.RepositoryIndexRequest())).models
    assert {model.state for model in index if model.name == "going"} == {"UNAVAILABLE"}
    await gateway.start(INFERENCE, "RepositoryModelLoad", oip.RepositoryModelLoadRequest(model_name="going"))
    answers = await asyncio.gather(*(gateway.inference("ModelInfer", infer("going")) for _ in range(20)))
    assert all(answer.model_name == "going" for answer in answers)


@pytest.mark.parametrize("name", ["nope", "../colours", "colours:1", ""])
async def test_only_known_bundle_names_are_loaded(gateway: Gateway, name: str) -> None:
    code, _ = await fails(gateway.start(MODELS, "LoadModel", models_pb2.LoadModelRequest(model=name)))
    assert code == ("NOT_FOUND" if name == "nope" else "INVALID_ARGUMENT")


@pytest.mark.parametrize("name", ["", "readiness", "liveness", "startup", VISION, "model/colours", "model/colours/1"])
async def test_health_speaks_for_all(gateway: Gateway, name: str) -> None:
    answer = await gateway.start("grpc.health.v1.Health", "Check", health_pb2.HealthCheckRequest(service=name))
    assert health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING


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


async def test_an_instances_death_leaves_the_sums_standing(gateway: Gateway) -> None:
    before = await count(gateway, "identity")
    await gateway.suite.start("vision", "vision-3", BUNDLES_DIR=gateway.suite.folder / "bundles")
    dying = next(replica for replica in gateway.suite.replicas if replica.name == "vision-3")
    for _ in range(30):
        await gateway.inference("ModelInfer", infer("identity"))
    assert (await count(gateway, "identity"))[0] == before[0] + 30
    dying.kill()
    await dying.child.wait()
    assert (await count(gateway, "identity"))[0] == before[0] + 30
