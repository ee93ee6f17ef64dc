"""Readiness: learns from Consul which instances are up, and from the gateway itself whether that is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

from deploy.local.ports import listens
from deploy.local.supervisor import Keeper, Supervisor
from services.kit.deadline import Deadline
from services.kit.discovery import ConsulSettings, Instance, Watcher
from services.kit.errors import UpstreamError
from services.kit.transport.health import READINESS
from services.kit.transport.upstream import Upstream, UpstreamSettings
from trivium.common.v1.model_pb2 import MODEL_STATE_READY
from trivium.models.v1 import models_pb2

LIST_MODELS = "/trivium.models.v1.ModelService/ListModels"
LEARNING_S, POLL_S = 3.0, 0.05
WATCH = "/grpc.health.v1.Health/Watch"
SERVING = health_pb2.HealthCheckResponse.SERVING
QUIET = UpstreamSettings(keepalive_s=3600)  # grpc may keep a closed connection until a garbage collection, and ping on


@contextlib.asynccontextmanager
async def follow_services(supervisor: Supervisor, consul_address: str) -> AsyncIterator[None]:
    """Marks every instance ready that Consul lists as passing, until the block ends."""

    def on_change(service: str, instances: tuple[Instance, ...]) -> None:
        for instance in instances:
            keeper = supervisor.keepers.get(instance.id)
            if keeper is None or instance.state != "passing" or keeper.address == instance.address:
                continue
            if _is_its_own(keeper, instance.address):
                keeper.mark_ready(instance.address)

    async with Watcher.open(ConsulSettings(address=consul_address), CollectorRegistry(), on_change):
        yield


def _is_its_own(keeper: Keeper, address: str) -> bool:
    """Whether the address is the running process's: Consul still lists its predecessor for a second after a kill."""
    return keeper.child is not None and listens(keeper.child.pid, int(address.rpartition(":")[2]))


async def gateway_serving(address: str) -> str:
    """The gateway's address, as soon as its health says that it wants calls."""
    while True:
        await _listening(address)
        upstream = Upstream(address, QUIET)
        try:
            with contextlib.suppress(UpstreamError):
                if await _is_serving(upstream):
                    return address
        finally:
            await upstream.close()
        await asyncio.sleep(POLL_S)


async def _listening(address: str) -> None:
    """Returns when the port is open; a gRPC channel that found it closed would wait a second before the next look."""
    host, _, port = address.rpartition(":")
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
            return
        await asyncio.sleep(POLL_S)


async def _is_serving(upstream: Upstream) -> bool:
    """True as soon as it is serving; False if the stream ends before."""
    request = health_pb2.HealthCheckRequest(service=READINESS)
    async with contextlib.aclosing(upstream.stream(WATCH, _one(request), (), Deadline.after(None), [])) as answers:
        async for data in answers:
            if health_pb2.HealthCheckResponse.FromString(data).status == SERVING:
                return True
    return False


async def until_known(gateway: str, services: Collection[str]) -> None:
    """Returns when the gateway lists a ready model of every service: it learns that a moment after Consul has.

    A service without models, which nothing forbids, is not waited for longer than that moment.
    """
    upstream = Upstream(gateway, QUIET)
    try:
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(LEARNING_S):
                while not set(services) <= await _served(upstream):  # noqa: ASYNC110  the gateway has no event for it
                    await asyncio.sleep(POLL_S)
    finally:
        await upstream.close()


async def _served(upstream: Upstream) -> set[str]:
    request = models_pb2.ListModelsRequest().SerializeToString()
    reply = await upstream.unary(LIST_MODELS, request, (), Deadline.after(LEARNING_S))
    models = models_pb2.ListModelsResponse.FromString(reply.message).models
    return {model.service for model in models if model.state == MODEL_STATE_READY}


async def _one(message: Message) -> AsyncIterator[bytes]:
    yield message.SerializeToString()
