"""This process in a real Consul: registered, kept, changed, left."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from services.kit.discovery import ConsulSettings, Instance, Registration
from tests.harness import Suite

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICE = "trivium-vision-v1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    async with Suite.open(tmp_path_factory.mktemp("discovery")) as suite:
        yield suite


@contextlib.asynccontextmanager
async def registered(suite: Suite, instance: str, meta: dict[str, str], port: int = 9) -> AsyncIterator[Registration]:
    settings = ConsulSettings(address=suite.consul.address, check_interval_s=0.1)
    async with Registration.open(
        settings,
        service=SERVICE,
        instance=instance,
        address=f"127.0.0.1:{port}",
        check_address=f"127.0.0.1:{port}",
        meta=lambda: meta,
        registry=CollectorRegistry(),
    ) as registration:
        await suite.until(lambda: found(suite, instance) is not None)
        yield registration


def found(suite: Suite, name: str) -> Instance | None:
    return next((instance for instance in suite.instances.get(SERVICE, ()) if instance.id == name), None)


async def put(suite: Suite, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.put(f"{suite.consul.address}/v1/agent/{path}") as response:
        assert response.status == 200


async def test_what_consul_has_lost_is_registered_again(suite: Suite) -> None:
    async with registered(suite, "lost", {}):
        await put(suite, "service/deregister/lost")
        await suite.until(lambda: found(suite, "lost") is None)
        await suite.until(lambda: found(suite, "lost") is not None)
    await suite.until(lambda: found(suite, "lost") is None)


async def test_a_change_of_the_meta_is_seen(suite: Suite) -> None:
    meta = {"models_digest": "a"}
    async with registered(suite, "changing", meta) as registration:
        meta["models_digest"] = "b"
        await registration.update()
        await suite.until(lambda: (seen := found(suite, "changing")) is not None and seen.meta["models_digest"] == "b")


async def test_who_leaves_is_not_registered_again_by_anything(suite: Suite) -> None:
    meta = {"models_digest": "a"}
    async with registered(suite, "leaving", meta) as registration:
        await registration.leave()
        await suite.until(lambda: (seen := found(suite, "leaving")) is not None and seen.state == "maintenance")
        meta["models_digest"] = "b"
        await registration.update()
        async with registered(suite, "later", {}):  # whatever was sent before has been seen by now
            seen = found(suite, "leaving")
            assert seen is not None
            assert (seen.state, seen.meta["models_digest"]) == ("maintenance", "a")


async def test_who_was_replaced_leaves_its_successor_alone(suite: Suite) -> None:
    async with registered(suite, "twin", {}, port=9) as old, registered(suite, "twin", {}, port=10):
        await suite.until(lambda: (seen := found(suite, "twin")) is not None and seen.address.endswith(":10"))
        assert await old.is_known()
        await old.leave()
        await old.deregister()
        async with registered(suite, "later still", {}):
            seen = found(suite, "twin")
            assert seen is not None
            assert seen.address == "127.0.0.1:10"
            assert seen.state != "maintenance"
