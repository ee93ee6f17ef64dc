"""Registration: this process in Consul, for as long as it wants calls."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import consul.aio
import structlog
from consul.callback import CB
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.kit.address import split
from services.kit.discovery.client import FAILURES, TAG, ConsulSettings, connect

Meta = Callable[[], Mapping[str, str]]


class Registration:
    """Registers an instance as passing and registers it again whenever Consul has lost it.

    An instance is registered when it is warm: Consul's first check is not waited for. Consul being away is no failure:
    the loop goes on, and the metrics say so.

    Args:
        service: Consul's name of the service, "trivium-vision-v1".
        instance: id of this process, unique at its agent.
        address: host:port that callers dial.
        check_address: host:port of the health service that the agent asks every second.
        meta: what the entry says besides, asked anew at each registration; values of at most 512 characters.
    """

    def __init__(
        self,
        client: consul.aio.Consul,
        service: str,
        instance: str,
        address: str,
        check_address: str,
        meta: Meta,
        registry: CollectorRegistry,
    ) -> None:
        self._client, self._service, self._instance, self._meta = client, service, instance, meta
        self._host, self._port = split(address)
        self._check_address = check_address
        self.registered = asyncio.Event()  # Consul has had the entry, once at least
        self._leaving = False  # from then on nothing is registered again
        self._deregistered = False
        self._superseded = False  # another process has registered under this id: the entry is not ours
        self._log = structlog.get_logger()
        self._registered = Gauge("trivium_consul_registered", "Whether Consul knows this instance.", registry=registry)
        self._registrations = Counter("trivium_consul_registrations", "Registrations sent.", registry=registry)
        self._errors = Counter("trivium_consul_errors", "Calls to Consul that failed.", registry=registry)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        settings: ConsulSettings,
        *,
        service: str,
        instance: str,
        address: str,
        check_address: str,
        meta: Meta,
        registry: CollectorRegistry,
    ) -> AsyncIterator["Registration"]:
        """Registers now and keeps it so; deregisters on the way out, if that has not been done."""
        async with connect(settings) as client:
            registration = cls(client, service, instance, address, check_address, meta, registry)
            keeper = asyncio.create_task(registration._keep(settings.check_interval_s), name="registration")
            try:
                yield registration
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
                await registration.deregister()

    @property
    def leaving(self) -> bool:
        """Whether this instance wants no calls any more."""
        return self._leaving

    async def update(self) -> None:
        """Registers again, since the meta has changed."""
        if not self._leaving:
            await self._attempt(self._register())

    async def leave(self) -> None:
        """Tells every watcher at once, by maintenance, that this instance wants no new calls any more."""
        self._leaving = True  # registering again would end the maintenance
        if not self._superseded:
            service = self._client.agent.service
            await self._attempt(service.maintenance(self._instance, True, reason="draining"))

    async def deregister(self) -> None:
        """Takes the entry away for good; once is enough."""
        self._leaving = True
        if not (self._deregistered or self._superseded):
            self._deregistered = True
            await self._attempt(self._client.agent.service.deregister(self._instance))
        self._registered.set(0)

    async def _keep(self, interval_s: float) -> None:
        known = False
        while not self._leaving:
            if not known or not await self.is_known():
                known = bool(await self._attempt(self._register()))
            await asyncio.sleep(interval_s * random.uniform(0.8, 1.2))

    async def is_known(self) -> bool:
        """Whether the agent has this instance's entry; any answer but "yes" means that it has not."""
        path = f"/v1/agent/service/{self._instance}"
        headers = self._client.prepare_headers()
        entry = await self._attempt(self._client.http.get(CB.json(), path, headers=headers))
        self._registered.set(entry is not None)
        if entry is None:
            return False
        holder = (entry.get("Address"), entry.get("Port"))
        self._superseded = holder != (self._host, self._port)
        if self._superseded:  # a process that was taken for dead must not fight its successor for the id
            self._log.error("instance_id_taken", instance=self._instance, by=holder)
        return True

    async def _register(self) -> bool:
        done = await self._client.agent.service.register(
            self._service,
            service_id=self._instance,
            address=self._host,
            port=self._port,
            tags=[TAG],
            meta=dict(self._meta()),
            check={
                "CheckID": f"{self._instance}:grpc",
                "Name": "gRPC health, readiness",
                "GRPC": f"{self._check_address}/readiness",
                "Interval": "1s",
                "Timeout": "1s",
                "Status": "passing",
                "DeregisterCriticalServiceAfter": "1m",
            },
            replace_existing_checks=True,
        )
        self._registrations.inc()
        self._registered.set(1)
        if done:
            self.registered.set()
        self._log.info("registered", service=self._service, instance=self._instance)
        return bool(done)

    async def _attempt(self, call: Any) -> Any:
        """The call's result; None if Consul refused it or could not be reached."""
        try:
            return await call
        except Exception as error:  # whatever it is, the instance goes on serving and asks again
            self._errors.inc()
            self._registered.set(0)
            text = f"{type(error).__name__}: {error}"
            self._log.warning("consul_call_failed", error=text, exc_info=not isinstance(error, FAILURES))
            return None
