"""Consul is the slow path: calls go on without it, and what it has lost comes back by itself."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness import Suite, Traffic, serving


async def test_calls_go_on_while_consul_is_dead_and_after_it_came_back_empty(
    tmp_path: Path, bundle_folder: Path, classify: Callable[[Any], Any], connect: Callable[[str], Any]
) -> None:
    async with Suite.open(tmp_path, durable=True) as suite:
        await suite.start("vision", "vision-1", BUNDLES_DIR=bundle_folder, DEFAULT_MODEL="colours")
        gateway = await suite.start_gateway()
        await serving(gateway.address, "model/colours")
        async with connect(gateway.address) as channel, Traffic(classify(channel), 50).running() as traffic:
            await traffic.more(20)
            await suite.consul.kill()
            await traffic.more(100)
            shutil.rmtree(tmp_path / "consul")
            suite.instances.clear()
            await suite.consul.start()
            await traffic.more(100)
            await suite.until(lambda: any(i.state == "passing" for i in suite.instances.get("trivium-vision-v1", ())))
            await traffic.more(50)
        assert traffic.failures == []
        assert traffic.sent == traffic.answered


async def test_an_instance_that_comes_while_consul_is_dead_is_found_afterwards(
    tmp_path: Path, bundle_folder: Path, classify: Callable[[Any], Any], connect: Callable[[str], Any]
) -> None:
    async with Suite.open(tmp_path, durable=True) as suite:
        gateway = await suite.start_gateway(ready="liveness")
        await suite.consul.kill()
        await suite.launch("vision", "vision-1", BUNDLES_DIR=bundle_folder, DEFAULT_MODEL="colours")
        await suite.consul.start()
        await serving(gateway.address, "model/colours")
        async with connect(gateway.address) as channel:
            await classify(channel)()
