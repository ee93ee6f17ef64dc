"""Devices: what the instances themselves say that their models run on."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from deploy.local.readiness import QUIET
from inference import grpc_service_pb2 as pb
from services.kit.call import Metadata
from services.kit.deadline import Deadline
from services.kit.errors import UpstreamError
from services.kit.transport.upstream import Reply, Upstream

INDEX = "/inference.GRPCInferenceService/RepositoryIndex"
CONFIG = "/inference.GRPCInferenceService/ModelConfig"
LIMIT_S = 3.0  # for the answers of one instance
UNKNOWN = "unknown"


class Asked(Protocol):
    """What is needed of an Upstream."""

    async def unary(self, path: str, request: bytes, metadata: Metadata, deadline: Deadline) -> Reply: ...


async def devices(instances: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What each service runs its models on: "CPU", "GPU 0", "CPU and GPU 0" or, where no instance says it, "unknown".

    Args:
        instances: service and address of each one.
    """
    answers = await asyncio.gather(*(_devices_at(address) for _, address in instances))
    found: dict[str, set[str]] = {}
    for (service, _), answer in zip(instances, answers, strict=True):
        found.setdefault(service, set()).update(answer)
    return {service: " and ".join(sorted(used)) or UNKNOWN for service, used in sorted(found.items())}


async def _devices_at(address: str) -> set[str]:
    upstream = Upstream(address, QUIET)
    try:
        return await devices_of(upstream)
    finally:
        await upstream.close()


async def devices_of(instance: Asked) -> set[str]:
    """The devices of its models that are ready; none where it does not answer, or not this protocol."""
    deadline = Deadline.after(LIMIT_S)
    used = set[str]()
    try:
        reply = await instance.unary(INDEX, pb.RepositoryIndexRequest(ready=True).SerializeToString(), (), deadline)
        for model in pb.RepositoryIndexResponse.FromString(reply.message).models:
            request = pb.ModelConfigRequest(name=model.name, version=model.version)
            reply = await instance.unary(CONFIG, request.SerializeToString(), (), deadline)
            used |= words(pb.ModelConfigResponse.FromString(reply.message).config.instance_group)
    except UpstreamError:  # it has ended, or unloaded that model, since it was found
        pass
    return used


def words(groups: Iterable[pb.ModelInstanceGroup]) -> set[str]:
    """The devices of one model: "GPU 0" as CUDA counts them, or "CPU"."""
    gpus = {f"GPU {number}" for group in groups for number in group.gpus}
    return gpus or {"CPU" for group in groups if group.kind == pb.ModelInstanceGroup.KIND_CPU}
