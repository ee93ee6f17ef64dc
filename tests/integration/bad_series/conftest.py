"""An instance of the sequence service and a gateway before it, which everything here is asked of."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from services.kit.inference.bundle import Bundle
from tests.harness import OPTIONS, Replica, Suite, serving
from tests.integration.bad_series.places import MAX_MESSAGE_STEPS, Place, Running
from tests.series import Caller


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def running(
    recurrent_bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    at = recurrent_bundles["rnn"].path.parents[1]
    async with Suite.open(tmp_path_factory.mktemp("bad")) as suite, contextlib.AsyncExitStack() as stack:
        limits = {"SERIES__MAX_MESSAGE_STEPS": str(MAX_MESSAGE_STEPS), "BUNDLES_DIR": str(at)}
        gateway, replica = await asyncio.gather(suite.start_gateway(), start(suite, limits))
        await serving(gateway.address, "model/rnn")
        places = []
        for address in (replica.address, gateway.address):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=OPTIONS))
            blocking = stack.enter_context(grpc.insecure_channel(address, options=OPTIONS))
            place = Place(Caller(channel), blocking, recurrent_bundles)
            places.append(await stack.enter_async_context(place.with_neighbours()))
        yield Running(places[0], places[1], replica)
        for place in places:
            assert place.failed == []
        await stack.aclose()
        assert await replica.stop() == 0
        for log in (replica.log, gateway.log):
            assert "internal_error" not in log.read_text()


async def start(suite: Suite, limits: dict[str, Any]) -> Replica:
    return await suite.start("sequence", "sequence-1", **limits)


@pytest.fixture(params=["instance", "gateway"])
def place(request: pytest.FixtureRequest, running: Running) -> Place:
    found: Place = getattr(running, request.param)
    return found
