"""Readiness: learns from Consul which instances are up, and from the gateway itself whether that is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

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

WATCH = "/grpc.health.v1.Health/Watch"
SERVING = health_pb2.HealthCheckResponse.SERVING


@contextlib.asynccontextmanager
async def follow_services(supervisor: Supervisor, consul_address: str) -> AsyncIterator[None]:
    """Marks every instance ready that Consul lists as passing, until the block ends."""

    def on_change(service: str, instances: tuple[Instance, ...]) -> None:
        for instance in instances:
            keeper = supervisor.keepers.get(instance.id)
            if instance.state == "passing" and keeper is not None and _is_its_own(keeper, instance.address):
                keeper.mark_ready(instance.address)

    async with Watcher.open(ConsulSettings(address=consul_address), CollectorRegistry(), on_change):
        yield


def _is_its_own(keeper: Keeper, address: str) -> bool:
    """Whether the address is the running process's: Consul still lists its predecessor for a second after a kill."""
    return keeper.child is not None and listens(keeper.child.pid, int(address.rpartition(":")[2]))


async def follow_gateway(keeper: Keeper, address: str) -> None:
    """Marks the gateway ready whenever its health says so; for ever."""
    upstream = Upstream(address, UpstreamSettings(connect_timeout_s=0.1))
    try:
        while True:
            await upstream.wait_connected()
            with contextlib.suppress(UpstreamError):
                await _until_it_ends(keeper, address, upstream)
            await asyncio.sleep(0.1)  # a connection that breaks at once must not make this loop spin
    finally:
        await upstream.close()


async def _until_it_ends(keeper: Keeper, address: str, upstream: Upstream) -> None:
    request = health_pb2.HealthCheckRequest(service=READINESS)
    async for data in upstream.stream(WATCH, _one(request), (), Deadline.after(None), []):
        if health_pb2.HealthCheckResponse.FromString(data).status == SERVING:
            keeper.mark_ready(address)


async def _one(message: Message) -> AsyncIterator[bytes]:
    yield message.SerializeToString()
