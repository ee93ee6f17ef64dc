"""Health and Consul follow the set of models."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import pytest
from prometheus_client import CollectorRegistry

from services.kit import service
from services.kit.discovery.client import ConsulSettings
from services.kit.service import announced, consul_meta, health_names
from services.kit.transport.health import READINESS, STARTUP, Health


@dataclass
class Version:
    """A model, or its bundle, as far as it is announced."""

    name: str
    version: int
    device: str = "cpu"

    @property
    def engine(self) -> "Version":
        return self


@dataclass
class FakeModels:
    loaded: list[Version] = field(default_factory=list)
    known: list[Version] = field(default_factory=list)
    on_change: Callable[[], None] = lambda: None

    def ready(self) -> list[Version]:
        return self.loaded

    def unloaded(self) -> list[Version]:
        return [version for version in self.known if version not in self.loaded]

    def digest(self) -> str:
        return f"{len(self.loaded):016x}"


class FakeServer:
    instance, address, health_address, http_port = "vision-1", "127.0.0.1:1", "127.0.0.1:2", 9100

    def __init__(self) -> None:
        self.health, self.registry = Health(), CollectorRegistry()

        self.declared = asyncio.Event()

    def ready(self) -> None:
        self.health.set(READINESS, True)
        self.declared.set()


class FakeRegistration:
    """Keeps what Consul would be told."""

    told: ClassVar[list[Mapping[str, str]]]
    leaving = False

    def __init__(self, meta: Callable[[], Mapping[str, str]]) -> None:
        self._meta, self.updated, self.registered = meta, asyncio.Event(), asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, settings: ConsulSettings, *, meta: Callable[[], Mapping[str, str]], **where: object
    ) -> AsyncIterator["FakeRegistration"]:
        assert where["check_address"] == FakeServer.health_address
        cls.told = [meta()]
        yield cls(meta)

    async def update(self) -> None:
        self.told.append(self._meta())
        self.updated.set()


def test_every_known_model_has_health_names_and_only_loaded_ones_are_serving() -> None:
    models = FakeModels([Version("a", 2), Version("b", 1)], [Version("a", 1), Version("a", 2), Version("c", 7)])
    assert health_names(cast(Any, models), serving=True) == {
        "model/a": True,
        "model/a/1": False,
        "model/a/2": True,
        "model/b": True,
        "model/b/1": True,
        "model/c": False,
        "model/c/7": False,
    }
    assert set(health_names(cast(Any, models), serving=False).values()) == {False}


@pytest.mark.parametrize(("devices", "accelerator"), [(["cpu"], "cpu"), (["cpu", "cuda"], "cuda"), ([], "cpu")])
def test_consul_learns_what_runs_here(devices: list[str], accelerator: str) -> None:
    models = FakeModels([Version("a", number, device) for number, device in enumerate(devices)])
    assert consul_meta(cast(Any, models), cast(Any, FakeServer())) == {
        "protocol": "grpc",
        "accelerator": accelerator,
        "metrics_port": "9100",
        "models_digest": f"{len(devices):016x}",
    }


async def test_a_change_of_the_models_reaches_health_and_consul(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Registration", FakeRegistration)
    models, server = FakeModels([Version("a", 1)]), FakeServer()
    async with announced(cast(Any, models), cast(Any, server), ConsulSettings(), "trivium-vision-v1") as registration:
        registration.registered.set()
        async with asyncio.timeout(5):
            await server.declared.wait()
        assert server.health.serving("model/a/1")
        models.loaded.append(Version("b", 1))
        models.on_change()
        assert server.health.serving("model/b")
        async with asyncio.timeout(5):
            await cast(Any, registration).updated.wait()
        assert [told["models_digest"][-1] for told in FakeRegistration.told] == ["1", "2"]


async def test_an_instance_that_consul_does_not_know_has_started_and_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "Registration", FakeRegistration)
    models, server = FakeModels([Version("a", 1)]), FakeServer()
    async with announced(cast(Any, models), cast(Any, server), ConsulSettings(), "trivium-vision-v1") as registration:
        models.on_change()
        async with asyncio.timeout(5):
            await cast(Any, registration).updated.wait()
        assert server.health.serving(STARTUP)
        assert not server.health.serving(READINESS)
        assert not server.health.serving("model/a")


async def test_a_leaving_instance_does_not_become_serving_by_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Registration", FakeRegistration)
    models, server = FakeModels([Version("a", 1)]), FakeServer()
    async with announced(cast(Any, models), cast(Any, server), ConsulSettings(), "trivium-vision-v1") as registration:
        registration.registered.set()
        async with asyncio.timeout(5):
            await server.declared.wait()
        server.health.leave()
        models.on_change()
        assert not server.health.serving("model/a")
