"""What the gateway asks an instance about itself: its health, its models, their counters, its descriptors."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gateway.addressing import MODEL_SERVICE, OIP
from inference import grpc_service_pb2 as oip
from services.kit.deadline import Deadline
from services.kit.transport.reflection import NAMES
from services.kit.transport.upstream import CallFailed, Upstream
from trivium.common.v1 import model_pb2
from trivium.models.v1 import models_pb2

HEALTH = "/grpc.health.v1.Health/Check"


async def serving(upstream: Upstream, timeout_s: float) -> bool:
    """Whether the instance says that it is SERVING; one without health counts if it answers at all."""
    try:
        reply = await upstream.unary(HEALTH, b"", (), Deadline.after(timeout_s))
        status = health_pb2.HealthCheckResponse.FromString(reply.message).status
        return bool(status == health_pb2.HealthCheckResponse.SERVING)
    except DecodeError:
        return False
    except CallFailed as failure:
        return bool(failure.status.code == code_pb2.UNIMPLEMENTED)


async def models(upstream: Upstream, timeout_s: float) -> tuple[model_pb2.ModelInfo, ...] | None:
    """The instance's models; None if it has no ModelService.

    Raises:
        CallFailed: it did not answer.
    """
    try:
        reply = await upstream.unary(f"{MODEL_SERVICE}ListModels", b"", (), Deadline.after(timeout_s))
    except CallFailed as failure:
        if failure.status.code == code_pb2.UNIMPLEMENTED:
            return None
        raise
    return tuple(models_pb2.ListModelsResponse.FromString(reply.message).models)


async def statistics(upstream: Upstream, timeout_s: float) -> Sequence[oip.ModelStatistics]:
    """The counters of the instance's models.

    Raises:
        CallFailed: it did not answer.
    """
    reply = await upstream.unary(f"{OIP}ModelStatistics", b"", (), Deadline.after(timeout_s))
    return oip.ModelStatisticsResponse.FromString(reply.message).model_stats


async def descriptors(
    upstream: Upstream, known: Callable[[str], bool], timeout_s: float
) -> dict[str, FileDescriptorProto]:
    """The files, by name, that describe the instance's services which are not `known`; none without reflection.

    Raises:
        CallFailed: it did not answer.
    """
    deadline = Deadline.after(timeout_s)
    for name in NAMES:
        path = f"/{name}/ServerReflectionInfo"
        try:
            listed = await _ask(upstream, path, [reflection_pb2.ServerReflectionRequest(list_services="*")], deadline)
            services = [found.name for response in listed for found in response.list_services_response.service]
            wanted = [service for service in services if not (known(service) or service.startswith("grpc."))]
            return await _files(upstream, path, wanted, deadline)
        except CallFailed as failure:
            if failure.status.code != code_pb2.UNIMPLEMENTED:
                raise
    return {}


async def _files(
    upstream: Upstream, path: str, services: Iterable[str], deadline: Deadline
) -> dict[str, FileDescriptorProto]:
    """The files of the services and all that they import, by name."""
    files: dict[str, FileDescriptorProto] = {}
    asked: set[str] = set()
    requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=service) for service in services]
    while requests:
        for response in await _ask(upstream, path, requests, deadline):
            for data in response.file_descriptor_response.file_descriptor_proto:
                file = FileDescriptorProto.FromString(data)
                files[file.name] = file
        missing = {name for file in files.values() for name in file.dependency} - files.keys() - asked
        asked |= missing
        requests = [reflection_pb2.ServerReflectionRequest(file_by_filename=name) for name in sorted(missing)]
    return files


async def _ask(
    upstream: Upstream, path: str, requests: Sequence[reflection_pb2.ServerReflectionRequest], deadline: Deadline
) -> list[reflection_pb2.ServerReflectionResponse]:
    async def messages() -> AsyncIterator[bytes]:
        for request in requests:
            yield request.SerializeToString()

    async with aclosing(upstream.stream(path, messages(), (), deadline, [])) as responses:
        return [reflection_pb2.ServerReflectionResponse.FromString(response) async for response in responses]
