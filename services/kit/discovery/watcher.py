"""Watcher: every instance of every Trivium service that Consul knows, as it changes."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import consul.aio
import structlog
from consul.callback import CB
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.kit import address
from services.kit.discovery.client import FAILURES, TAG, ConsulSettings, connect

InstanceState = Literal["passing", "warning", "critical", "maintenance"]
MAINTENANCE_CHECKS = ("_service_maintenance:", "_node_maintenance")
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0
BRAKE_S = 0.02  # shortest time between two answers, so that a misbehaving agent cannot make the loop spin


@dataclass(frozen=True, slots=True)
class Instance:
    """One registered process as Consul sees it."""

    service: str  # "trivium-vision-v1"
    id: str
    address: str  # host:port
    meta: Mapping[str, str]
    state: InstanceState


OnChange = Callable[[str, tuple[Instance, ...]], None]


class Watcher:
    """Calls `on_change(service, instances)` with the whole set of a service whenever it has changed.

    Services are those tagged "trivium"; a new one is found by itself, one that vanishes gives an empty set. While
    Consul is away nothing is called: the last set stands. `answered` is set once every set has been seen.
    """

    def __init__(
        self, client: consul.aio.Consul, settings: ConsulSettings, registry: CollectorRegistry, on_change: OnChange
    ) -> None:
        self._client, self._settings, self._on_change = client, settings, on_change
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pending: set[str] = set()
        self.answered = asyncio.Event()
        self._log = structlog.get_logger()
        self._errors = Counter("trivium_consul_watch_errors", "Blocking queries that failed.", registry=registry)
        self._connected = Gauge(
            "trivium_consul_connected", "Whether Consul answered the last query.", registry=registry
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, settings: ConsulSettings, registry: CollectorRegistry, on_change: OnChange
    ) -> AsyncIterator["Watcher"]:
        """Watches until the block ends."""
        async with connect(settings) as client:
            watcher = cls(client, settings, registry, on_change)
            names = asyncio.create_task(watcher._watch("/v1/catalog/services", watcher._on_names), name="watch names")
            try:
                yield watcher
            finally:
                tasks = [names, *watcher._tasks.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _on_names(self, names: Mapping[str, Sequence[str]] | None) -> None:
        for name, tags in (names or {}).items():
            if TAG in tags and name not in self._tasks:
                self._pending.add(name)
                self._tasks[name] = asyncio.create_task(self._watch_service(name), name=f"watch {name}")
        self._settle()

    async def _watch_service(self, name: str) -> None:
        def on_entries(entries: Sequence[Mapping[str, Any]] | None) -> None:
            self._on_change(name, tuple(instance_of(entry) for entry in entries or ()))
            self._pending.discard(name)
            self._settle()

        await self._watch(f"/v1/health/service/{name}", on_entries)

    def _settle(self) -> None:
        if not self._pending:
            self.answered.set()

    async def _watch(self, path: str, on_data: Callable[[Any], None]) -> None:
        """A blocking query for ever: hands each answer that differs from the last one to `on_data`."""
        index, backoff_s, last = 0, FIRST_BACKOFF_S, object()
        while True:
            started = time.monotonic()
            try:
                newest, data = await self._query(path, index)
                if data != last:
                    on_data(data)
                    last = data
            except Exception as error:  # whatever it is, the watch goes on
                self._failed(path, error)
                index = 0  # an index never outlives an error: it may be from before a wipe
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.5))
                backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
                continue
            self._connected.set(1)
            backoff_s = FIRST_BACKOFF_S
            index = newest if newest >= max(index, 1) else 0  # it went backwards: start over
            if (spent_s := time.monotonic() - started) < BRAKE_S:
                await asyncio.sleep(BRAKE_S - spent_s)

    def _failed(self, path: str, error: Exception) -> None:
        self._errors.inc()
        if isinstance(error, FAILURES):
            self._connected.set(0)
            self._log.warning("consul_watch_failed", path=path, error=f"{type(error).__name__}: {error}")
        else:
            self._log.error("consul_watch_failed", path=path, exc_info=error)

    async def _query(self, path: str, index: int) -> tuple[int, Any]:
        wait_s = self._settings.wait_s
        params = [("stale", "1"), ("index", str(index)), ("wait", f"{wait_s:g}s")]
        result: tuple[int, Any] = await self._client.http.get(
            _indexed,
            path,
            params=params,
            headers=self._client.prepare_headers(),
            connections_timeout=wait_s * 17 / 16 + self._settings.timeout_s,  # Consul adds up to a sixteenth
        )
        return result


def _indexed(response: Any) -> tuple[int, Any]:
    """The answer with its index, which py-consul's own callbacks give as text."""
    CB._status(response)
    try:
        return int(response.headers["X-Consul-Index"]), None if response.code == 404 else json.loads(response.body)
    except (KeyError, ValueError) as error:
        raise consul.ConsulException(f"no answer of a Consul agent: {response.body[:200]!r}") from error


def instance_of(entry: Mapping[str, Any]) -> Instance:
    """The instance in one entry of /v1/health/service/NAME."""
    service = entry["Service"]
    return Instance(
        service=service["Service"],
        id=service["ID"],
        address=address.join(service["Address"] or entry["Node"]["Address"], service["Port"]),
        meta=service["Meta"] or {},
        state=_state(entry["Checks"]),
    )


def _state(checks: Sequence[Mapping[str, Any]]) -> InstanceState:
    """The worst of an instance's checks; maintenance is told apart from failing."""
    if any(check["CheckID"].startswith(MAINTENANCE_CHECKS) and check["Status"] == "critical" for check in checks):
        return "maintenance"
    statuses = {check["Status"] for check in checks}
    if "critical" in statuses:
        return "critical"
    return "warning" if "warning" in statuses else "passing"
