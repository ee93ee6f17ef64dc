"""An instance of the language service and a gateway before it, which everything here is asked of."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.harness import OPTIONS, Suite, serving
from tests.integration.bad_texts.places import NEIGHBOURS, Place, Running
from tests.texts import Caller, Written


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def running(language_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with Suite.open(tmp_path_factory.mktemp("bad")) as suite, contextlib.AsyncExitStack() as stack:
        quick: dict[str, Any] = {
            "ENGINE__THREADS": 1,
            "DEFAULT_MODEL": "gpt",
            "BUNDLES_DIR": language_folder,
            "GENERATION__MAX_QUEUE": 10_000,
        }
        gateway, replica = await asyncio.gather(suite.start_gateway(), suite.start("language", "language-1", **quick))
        for name in ("gpt", "translate", "recite", "scripts"):
            await serving(gateway.address, f"model/{name}")
        places, known = [], list[list[Written]]()
        for address in (replica.address, gateway.address):
            caller = Caller(await stack.enter_async_context(grpc.aio.insecure_channel(address, options=OPTIONS)))
            known = known or [await caller.texts(**wish) for wish in NEIGHBOURS]
            places.append(await stack.enter_async_context(Place(caller, known).with_neighbours()))
        yield Running(places[0], places[1], replica)
        for place in places:
            assert place.failed == []
        await stack.aclose()
        assert await replica.stop() == 0
        for log in (replica.log, gateway.log):
            assert "internal_error" not in log.read_text()
            assert "scheduler_broken" not in log.read_text()


@pytest.fixture(params=["instance", "gateway"])
def place(request: pytest.FixtureRequest, running: Running) -> Place:
    found: Place = getattr(running, request.param)
    return found
