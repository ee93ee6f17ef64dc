"""What every service composes alike: the settings of a process that serves bundles, and its place in Consul."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.kit.discovery import Registration
from services.kit.discovery.client import ConsulSettings
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.engine import EngineSettings
from services.kit.inference.loading import ModelsSettings
from services.kit.inference.models import Models
from services.kit.lifecycle import Server
from services.kit.process import ProcessSettings
from services.kit.transport.health import READINESS, STARTUP

MODEL_PREFIX = "model/"  # of the models' health names: model/NAME and model/NAME/VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings(ProcessSettings):
    """Base of every service's settings."""

    bundles_dir: tuple[Path, ...] = ()  # folders of bundles, separated by ":"; served besides the default ones
    default_model: str = ""  # the bundle that answers a call without a model's name
    engine: EngineSettings = field(default_factory=EngineSettings)
    batcher: BatcherSettings = field(default_factory=BatcherSettings)

    def models(self, service: str, default_bundles: Path) -> ModelsSettings:
        """What to load for `service`: its default bundles and those of BUNDLES_DIR."""
        folders = (default_bundles, *self.bundles_dir)
        return ModelsSettings(service, folders, self.default_model, self.engine, self.batcher)


@contextlib.asynccontextmanager
async def announced(
    models: Models[Any], server: Server, consul: ConsulSettings, consul_service: str
) -> AsyncIterator[Registration]:
    """Registers the server and declares it as SERVING once Consul has it: one that nobody finds is not ready, however
    long Consul is away. Health and Consul follow every change of the models."""
    changed = asyncio.Event()

    def tell_health() -> None:
        server.health.replace(MODEL_PREFIX, health_names(models, server.health.serving(READINESS)))

    def on_change() -> None:
        tell_health()
        changed.set()

    async def serve_once_registered() -> None:
        await registration.registered.wait()
        if not registration.leaving:
            server.ready()
            tell_health()

    server.health.set(STARTUP, True)  # loaded and warm: another start would not bring Consul back
    tell_health()
    models.on_change = on_change
    async with Registration.open(
        consul,
        service=consul_service,
        instance=server.instance,
        address=server.address,
        check_address=server.health_address,
        meta=functools.partial(consul_meta, models, server),
        registry=server.registry,
    ) as registration:
        tasks = [
            asyncio.create_task(serve_once_registered(), name="ready once registered"),
            asyncio.create_task(_update(registration, changed), name="registration updates"),
        ]
        try:
            yield registration
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def health_names(models: Models[Any], serving: bool) -> dict[str, bool]:
    """Health names of all known models: those that are loaded are SERVING, if the process is."""
    unloaded = [(bundle.name, bundle.version, False) for bundle in models.unloaded()]
    loaded = [(model.name, model.version, serving) for model in models.ready()]
    names: dict[str, bool] = {}
    for name, version, status in unloaded + loaded:
        names[f"{MODEL_PREFIX}{name}"] = status
        names[f"{MODEL_PREFIX}{name}/{version}"] = status
    return names


def consul_meta(models: Models[Any], server: Server) -> Mapping[str, str]:
    """What the gateway and operators learn from Consul; a new digest makes the gateway ask for the models again."""
    on_cuda = any(model.engine.device == "cuda" for model in models.ready())
    return {
        "protocol": "grpc",
        "accelerator": "cuda" if on_cuda else "cpu",
        "metrics_port": str(server.http_port),
        "models_digest": models.digest(),
    }


async def _update(registration: Registration, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        changed.clear()
        await registration.update()
