"""ImageSuite: a Suite whose processes are containers of the images."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from deploy.local.child import Child, Program
from tests.harness import ROOT, Consul, Replica, Suite, free_port, serving
from tests.image_test.engine import Engine
from tests.image_test.report import Report


class ImageSuite(Suite):
    """Starts containers on the network of this machine, so that each needs ports of its own."""

    def __init__(self, folder: Path, engine: Engine, images: Mapping[str, str], report: Report) -> None:
        super().__init__(folder)
        self.engine, self.images, self.report = engine, images, report
        self.health: dict[str, str] = {}  # name -> host:port of its plaintext health port

    @classmethod
    @contextlib.asynccontextmanager
    async def of(
        cls, folder: Path, engine: Engine, images: Mapping[str, str], report: Report
    ) -> AsyncIterator["ImageSuite"]:
        """With a running Consul and nothing else."""
        suite = cls(folder, engine, images, report)
        try:
            async with suite.running():
                yield suite
        finally:
            for replica in suite.replicas:
                engine.remove(_container(replica.name))

    async def start(self, component: str, name: str, module: str = "", **settings: object) -> Replica:
        """A service, ready and registered; its time goes into the report."""
        started = time.monotonic()
        replica = await super().start(component, name, module, **settings)
        self.report.started(component, time.monotonic() - started)
        return replica

    async def start_gateway(self, name: str = "gateway", ready: str = "readiness", **settings: object) -> Replica:
        """A gateway whose health name `ready` is SERVING; its time goes into the report."""
        started = time.monotonic()
        replica = await super().start_gateway(name, ready, **settings)
        self.report.started("gateway", time.monotonic() - started)
        return replica

    async def launch(self, component: str, name: str, module: str = "", **settings: object) -> Replica:
        """A container that has just been started.

        Settings are keys without their prefix, as in Suite; one that is None is not set. `volumes` maps folders to
        where they are mounted, read-only.
        """
        volumes: Any = settings.pop("volumes", {})
        ports = {key: free_port() for key in ("GRPC_PORT", "HEALTH_PORT", "HTTP_PORT")}
        values: dict[str, object] = {
            "INSTANCE": name,
            "ADVERTISE_ADDRESS": "127.0.0.1",
            "CONSUL__ADDRESS": self.consul.address,
            **ports,
            **settings,
        }
        prefix = f"TRIVIUM_{component.upper()}__"
        environment = {f"{prefix}{key}": str(value) for key, value in values.items() if value is not None}
        container = self.engine.container(self.images[component], _container(name), environment, volumes)
        log = self.folder / f"{name}.log"
        child = await Child.spawn(Program(component, name, container.command, container.environment), log)
        replica = Replica(component, name, child, log, _local(values["GRPC_PORT"]), _local(values["HTTP_PORT"]))
        self.health[name] = _local(values["HEALTH_PORT"])
        self.replicas.append(replica)
        return replica

    async def until_serving(self, replica: Replica, name: str) -> None:
        """Returns when the plaintext health port says that `name` is SERVING."""
        await self._while_alive(replica, asyncio.ensure_future(serving(self.health[replica.name], name)))

    def later_consul(self) -> Consul:
        """A Consul that does not run yet, whose address is known."""
        return Consul(self.folder / "later")


def sample(path: str) -> bytes:
    """A file of the checkout."""
    return (ROOT / path).read_bytes()


def _container(name: str) -> str:
    return f"trivium-image-test-{name}"


def _local(port: object) -> str:
    return f"127.0.0.1:{port}"
