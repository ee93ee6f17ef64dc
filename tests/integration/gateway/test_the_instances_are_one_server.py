"""What the gateway says of models, statistics and health, it says of all instances together."""

import asyncio

import pytest
from grpc_health.v1 import health_pb2

from inference import grpc_service_pb2 as oip
from tests.integration.gateway.calls import INFERENCE, MODELS, VISION, Gateway, fails, infer
from trivium.models.v1 import models_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


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
    assert await fails(gateway.inference("ModelInfer", infer("going"))) == ("UNAVAILABLE", "MODEL_UNLOADED")
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
