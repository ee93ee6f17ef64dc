"""One of two instances goes, in every way it can, while calls arrive at a steady rate: none is lost."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.conftest import CLASSIFY, COLOURS
from tests.harness import Replica, Suite, Traffic, serving
from trivium.vision.v1 import vision_pb2

RATE_PER_S = 150
Classify = Callable[..., Callable[[], Any]]
Connect = Callable[[str], Any]
SERVICE = "trivium-vision-v1"


@pytest.fixture
async def suite(tmp_path: Path) -> AsyncIterator[Suite]:
    async with Suite.open(tmp_path) as suite:
        yield suite


async def start(suite: Suite, bundle_folder: Path, name: str) -> Replica:
    return await suite.start("vision", name, BUNDLES_DIR=bundle_folder, DEFAULT_MODEL="colours")


async def start_gateway(suite: Suite, **settings: Any) -> Replica:
    gateway = await suite.start_gateway(**settings)
    await serving(gateway.address, "model/colours")
    return gateway


async def answers(channel: Any, replica: Replica) -> None:
    """Returns when a call through the gateway has been answered by the replica."""
    method = channel.unary_unary(CLASSIFY)
    request = vision_pb2.ClassifyRequest(model="colours", image=COLOURS["red"]).SerializeToString()
    async with asyncio.timeout(10):
        instance = ""
        while instance != replica.name:
            call = method(request)
            await call
            instance = dict(tuple(await call.trailing_metadata()))["trivium-instance"]


async def test_sigkill_of_one_of_two_loses_no_call(
    suite: Suite, bundle_folder: Path, classify: Classify, connect: Connect
) -> None:
    doomed, _ = await asyncio.gather(*(start(suite, bundle_folder, f"vision-{n}") for n in (1, 2)))
    gateway = await start_gateway(suite)
    async with connect(gateway.address) as channel, Traffic(classify(channel), RATE_PER_S).running() as traffic:
        await traffic.more(150)
        doomed.kill()
        await doomed.child.wait()
        await traffic.more(300)
    assert traffic.failures == []
    assert traffic.sent == traffic.answered


async def test_sigkill_again_and_again_loses_no_call(
    suite: Suite, bundle_folder: Path, classify: Classify, connect: Connect
) -> None:
    first, second = await asyncio.gather(*(start(suite, bundle_folder, f"vision-{n}") for n in (1, 2)))
    gateway = await start_gateway(suite)
    async with connect(gateway.address) as channel, Traffic(classify(channel), RATE_PER_S).running() as traffic:
        for _ in range(2):
            await traffic.more(60)
            first.kill()
            await first.child.wait()
            await answers(channel, await start(suite, bundle_folder, first.name))
            first, second = second, suite.replicas[-1]
    assert traffic.failures == []
    assert traffic.sent == traffic.answered


async def test_sigterm_of_each_in_turn_loses_no_call(
    suite: Suite, bundle_folder: Path, classify: Classify, connect: Connect
) -> None:
    replicas = list(await asyncio.gather(*(start(suite, bundle_folder, f"vision-{n}") for n in (1, 2))))
    gateway = await start_gateway(suite)
    async with connect(gateway.address) as channel, Traffic(classify(channel), RATE_PER_S).running() as traffic:
        for leaving in replicas:
            await traffic.more(60)
            assert await leaving.stop() == 0
            await answers(channel, await start(suite, bundle_folder, leaving.name))
    assert traffic.failures == []
    assert traffic.sent == traffic.answered


@pytest.mark.long
async def test_an_instance_that_hangs_loses_no_call(
    suite: Suite, bundle_folder: Path, classify: Classify, connect: Connect
) -> None:
    """Calls that it had accepted come back when the gateway's keepalive has given the connection up."""
    hanging, _ = await asyncio.gather(*(start(suite, bundle_folder, f"vision-{n}") for n in (1, 2)))
    gateway = await start_gateway(suite)
    async with connect(gateway.address) as channel, Traffic(classify(channel, 40), 50).running() as traffic:
        await traffic.more(50)
        hanging.send(signal.SIGSTOP)
        await suite.until(lambda: any(i.state == "critical" for i in suite.instances[SERVICE]))
        await traffic.more(100)
    hanging.send(signal.SIGCONT)
    assert traffic.failures == []
    assert traffic.sent == traffic.answered


async def test_without_retries_a_sigkill_loses_calls_and_declares_them(
    suite: Suite, bundle_folder: Path, classify: Classify, connect: Connect
) -> None:
    """The negative control: the tests above can fail."""
    doomed, _ = await asyncio.gather(*(start(suite, bundle_folder, f"vision-{n}") for n in (1, 2)))
    gateway = await start_gateway(suite, RETRIES__MAX_ATTEMPTS=1)
    async with connect(gateway.address) as channel, Traffic(classify(channel), RATE_PER_S).running() as traffic:
        await traffic.more(100)
        doomed.kill()
        await traffic.more(200)
    assert traffic.failures
    assert traffic.sent == traffic.answered + len(traffic.failures)


async def test_the_last_instances_death_is_declared_and_its_successor_is_found(
    suite: Suite, bundle_folder: Path, classify: Classify, connect: Connect
) -> None:
    only = await start(suite, bundle_folder, "vision-1")
    gateway = await start_gateway(suite)
    async with connect(gateway.address) as channel, Traffic(classify(channel), 50).running() as traffic:
        await traffic.more(20)
        only.kill()
        await only.child.wait()
        await traffic.more(20)
        await start(suite, bundle_folder, "vision-1")
        await serving(gateway.address, "model/colours")
        declared = len(traffic.failures)
        await traffic.more(50)
    assert all(failure.startswith("UNAVAILABLE") for failure in traffic.failures)
    assert declared == len(traffic.failures)
    assert traffic.sent == traffic.answered + declared
