"""A gateway and two instances of the sequence service in processes of their own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.kit.inference.bundle import Bundle
from tests.harness import Suite, serving
from tests.integration.sequence.instances import Running, calling


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def running(
    recurrent_bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    at = recurrent_bundles["rnn"].path.parents[1]
    async with Suite.open(tmp_path_factory.mktemp("sequence")) as suite, contextlib.AsyncExitStack() as stack:
        gateway, *replicas = await asyncio.gather(
            suite.start_gateway(), *(suite.start("sequence", f"sequence-{n}", BUNDLES_DIR=at) for n in (1, 2))
        )
        await serving(gateway.address, "model/rnn")
        addresses = [replica.address for replica in (*replicas, gateway)]
        one, two, both = [await stack.enter_async_context(calling(address)) for address in addresses]
        yield Running(suite, at, recurrent_bundles, replicas, one, two, both, gateway.address)
