"""What the protocol says about the server and its models, and that names and versions are Triton's."""

from typing import Any

import pytest
from google.rpc import code_pb2

from inference import grpc_service_pb2 as pb
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import InvalidField, ModelNotFound, TriviumError, UnknownMethod, UnknownParameter
from services.kit.inference.models import Models
from services.kit.inference.oip import OipServicer, not_offered
from services.kit.transport.method import methods_of
from tests.unit.kit.inference.oip.requests import call, infer


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
