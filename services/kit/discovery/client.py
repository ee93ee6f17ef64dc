"""The connection to Consul's HTTP API: py-consul's asyncio client, set up so that the settings decide."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import consul
import consul.aio

from services.kit.errors import SettingsError
from services.kit.settings import setting

TAG = "trivium"  # of every Consul service that a gateway routes to

# What a call to Consul can fail with: its own answers, and the transport's.
FAILURES = (consul.ConsulException, aiohttp.ClientError, asyncio.TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class ConsulSettings:
    """Where Consul's agent is and how patient we are with it."""

    address: str = "http://127.0.0.1:8500"  # of the agent on this machine; "host:port" means http
    token: str = ""  # ACL token; empty: CONSUL_HTTP_TOKEN, if that is set
    timeout_s: float = setting(5.0, low=0.1)  # of a call that Consul answers at once
    wait_s: float = setting(30.0, low=1, high=30)  # longest wait of a blocking query
    check_interval_s: float = setting(2.0, low=0.1)  # how often a registration is looked for


@contextlib.asynccontextmanager
async def connect(settings: ConsulSettings) -> AsyncIterator[consul.aio.Consul]:
    """A client of the agent; closed on the way out.

    Raises:
        SettingsError: the address is no URL and no host:port.
    """
    scheme, host, port = parse_address(settings.address)
    client = consul.aio.Consul(host, port, scheme=scheme, connections_limit=100, connections_timeout=settings.timeout_s)
    if settings.token:
        client.token = settings.token  # the constructor prefers the environment to its argument
    try:
        yield client
    finally:
        await client.close()


def consul_service(package: str) -> str:
    """The Consul service of a gRPC package: "trivium.vision.v1" -> "trivium-vision-v1"."""
    return package.replace(".", "-")


def parse_address(address: str) -> tuple[str, str, int]:
    """Scheme, host and port of the agent."""
    parts = urlsplit(address if "//" in address else f"http://{address}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
        raise SettingsError(
            f"CONSUL__ADDRESS is {address!r}", hint="give it as http://host:port, for example http://127.0.0.1:8500"
        )
    return parts.scheme, parts.hostname, port
