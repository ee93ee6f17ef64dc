"""Readiness: what the gateway's health says, from what its instances are."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gateway.catalog import Catalog
from gateway.fleet import Fleet
from gateway.methods import Methods
from services.kit.discovery import Watcher
from services.kit.lifecycle import Server
from services.kit.transport.health import STARTUP


class Readiness:
    """Keeps the health names up to date.

    `startup`: discovery has answered. `readiness`, "" and the gateway's own services: besides, an instance has taken
    calls; from then on they stay, since a caller learns more from NO_INSTANCE than from a gateway that is gone.
    `model/...` and the services behind the gateway: whether an instance serves them now.
    """

    def __init__(self, fleet: Fleet, catalog: Catalog, methods: Methods, server: Server) -> None:
        self._fleet, self._catalog, self._methods, self._server = fleet, catalog, methods, server
        self._was_ready = False

    @classmethod
    @contextlib.asynccontextmanager
    async def follow(
        cls, fleet: Fleet, catalog: Catalog, methods: Methods, server: Server, watcher: Watcher
    ) -> AsyncIterator["Readiness"]:
        """Follows the fleet until the block ends."""
        readiness = cls(fleet, catalog, methods, server)
        fleet.on_publish = readiness.update
        task = asyncio.create_task(readiness._first_answer(watcher), name="first answer")
        try:
            yield readiness
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            fleet.on_publish = lambda: None

    async def _first_answer(self, watcher: Watcher) -> None:
        await watcher.answered.wait()
        self._fleet.answered()

    def update(self) -> None:
        """After a change of the routes."""
        routes, health = self._fleet.routes, self._server.health
        if not routes.answered:
            return
        health.set(STARTUP, True)
        if not self._was_ready and routes.ready():
            self._was_ready = True
            self._server.ready()
        health.replace("model/", self._catalog.health())
        for service in routes.services:
            for name in self._methods.services(service):
                health.set(name, bool(routes.endpoints(service)))
