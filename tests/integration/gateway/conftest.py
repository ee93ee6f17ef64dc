"""Two vision instances behind one gateway."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from services.kit.inference import bundle as bundle_files
from tests import bundles
from tests.harness import OPTIONS, Suite, serving
from tests.integration.gateway.calls import VALUES, Gateway


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    make_bundles(folder / "bundles")
    async with Suite.open(folder) as suite:
        names = ("vision-1", "vision-2")
        await asyncio.gather(*(suite.start("vision", name, BUNDLES_DIR=folder / "bundles") for name in names))
        replica = await suite.start_gateway()
        await serving(replica.address, "model/colours")
        async with grpc.aio.insecure_channel(replica.address, options=OPTIONS) as channel:
            yield Gateway(suite, replica, channel)


def make_bundles(folder: Path) -> None:
    bundles.colours(folder, version=1)
    bundles.colours(folder, version=2)
    bundle_files.write_labels(folder / "colours", {"stable": 1, "canary": 2})
    bundles.identity(folder)
    bundles.identity(folder, "going")
    bundles.add(folder)
    bundles.picky(folder)
    for datatype in VALUES:
        bundles.identity(folder, f"same-{datatype.lower()}", datatype=datatype, width=3)
