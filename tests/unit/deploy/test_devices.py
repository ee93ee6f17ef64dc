"""Devices: in the instances' own words."""

from google.rpc import code_pb2, status_pb2

from deploy.local.devices import CONFIG, INDEX, devices_of
from inference import grpc_service_pb2 as pb
from services.kit.call import Metadata
from services.kit.deadline import Deadline
from services.kit.errors import UpstreamError
from services.kit.transport.upstream import Reply

GPU, CPU = pb.ModelInstanceGroup.KIND_GPU, pb.ModelInstanceGroup.KIND_CPU


class Instance:
    """One that serves models, each on the devices of its groups; those without any were unloaded a moment ago."""

    def __init__(self, models: dict[str, list[pb.ModelInstanceGroup]]) -> None:
        self._models = models

    async def unary(self, path: str, request: bytes, metadata: Metadata, deadline: Deadline) -> Reply:
        if path == INDEX:
            assert pb.RepositoryIndexRequest.FromString(request).ready
            index = pb.RepositoryIndexResponse()
            for name in self._models:
                index.models.add(name=name, version="3")
            return Reply(index.SerializeToString(), (), ())
        assert path == CONFIG
        asked = pb.ModelConfigRequest.FromString(request)
        if asked.version != "3" or not self._models[asked.name]:
            raise UpstreamError(status_pb2.Status(code=code_pb2.NOT_FOUND))
        config = pb.ModelConfig(instance_group=self._models[asked.name])
        return Reply(pb.ModelConfigResponse(config=config).SerializeToString(), (), ())


def group(kind: pb.ModelInstanceGroup.Kind.ValueType, *gpus: int) -> list[pb.ModelInstanceGroup]:
    return [pb.ModelInstanceGroup(kind=kind, gpus=gpus)]


async def test_the_cpu_and_each_gpu_are_told_apart() -> None:
    assert await devices_of(Instance({"a": group(CPU), "b": group(CPU)})) == {"CPU"}
    assert await devices_of(Instance({"a": group(GPU, 1)})) == {"GPU 1"}
    assert await devices_of(Instance({"a": group(GPU, 0), "b": group(CPU)})) == {"GPU 0", "CPU"}


async def test_who_does_not_say_it_is_not_guessed() -> None:
    assert await devices_of(Instance({})) == set()
    assert await devices_of(Instance({"a": []})) == set()
