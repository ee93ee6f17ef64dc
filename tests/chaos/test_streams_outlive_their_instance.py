"""Instances die, leave and hang while streams and sequences are under way: each ends complete, equal to the bit."""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.kit.transport.upstream import Upstream, UpstreamSettings
from tests.chaos.live_streams import LiveStreams, random_series, unbroken
from tests.harness import Replica, Suite, serving
from tests.recurrent import recurrent_bundle

MODEL, SERVICE = "lstm", "trivium-sequence-v1"
INSTANCES = 3


@pytest.fixture
async def suite(tmp_path: Path) -> AsyncIterator[Suite]:
    async with Suite.open(tmp_path) as suite:
        yield suite


class Instances:
    """The instances of one test, of which one at a time may be missing."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self._suite, self._folder = suite, folder
        self.running: list[Replica] = []

    async def start(self, name: str) -> Replica:
        replica = await self._suite.start("sequence", name, BUNDLES_DIR=self._folder, DEFAULT_MODEL=MODEL)
        self.running.append(replica)
        return replica

    def kill(self, replica: Replica) -> None:
        self.running.remove(replica)
        replica.kill()

    async def again(self, replica: Replica) -> None:
        await replica.child.wait()
        await self.start(replica.name)


async def start(suite: Suite, tmp_path: Path, **settings: Any) -> tuple[Instances, Replica]:
    folder = tmp_path / "bundles"
    recurrent_bundle(folder, MODEL, cell="lstm", layers=2, hidden=32, horizon=3)
    instances = Instances(suite, folder)
    await asyncio.gather(*(instances.start(f"sequence-{number}") for number in range(1, INSTANCES + 1)))
    gateway = await suite.start_gateway(**settings)
    await serving(gateway.address, f"model/{MODEL}")
    return instances, gateway


@contextlib.asynccontextmanager
async def connection(gateway: Replica) -> AsyncIterator[Upstream]:
    """A caller's; the kit's own, since a plain grpc.aio stream now and then loses the status that it ended with."""
    upstream = Upstream(gateway.address, UpstreamSettings())
    try:
        yield upstream
    finally:
        await upstream.close()


async def live(upstream: Upstream, *, longest: int, pause_s: float, seed: int) -> LiveStreams:
    rng = random.Random(seed)
    known = [await unbroken(upstream, MODEL, random_series(rng, longest)) for _ in range(24)]
    return LiveStreams(upstream, MODEL, known, pause_s, rng)


async def kill_again_and_again(instances: Instances, streams: LiveStreams, kills: int, rng: random.Random) -> None:
    """Kills a random instance after a random number of answers; every fourth time another one right after it."""
    done = 0
    while done < kills and not streams.failures:
        await streams.more(rng.randint(1, 120))
        doomed = [rng.choice(instances.running)]
        instances.kill(doomed[0])
        if done % 4 == 3:
            await streams.more(rng.randint(1, 10))
            doomed.append(rng.choice(instances.running))
            instances.kill(doomed[1])
        done += len(doomed)
        await asyncio.gather(*map(instances.again, doomed))


async def resumes(gateway: Replica) -> float:
    return await gateway.metric("trivium_gateway_stream_resumes_total")


def complete(streams: LiveStreams) -> None:
    assert streams.failures == []
    assert streams.begun == streams.ended


async def test_sigkill_of_the_instance_that_holds_them(suite: Suite, tmp_path: Path) -> None:
    instances, gateway = await start(suite, tmp_path)
    async with connection(gateway) as upstream:
        streams = await live(upstream, longest=120, pause_s=0.05, seed=1)
        async with streams.running(60, sequences=10):
            await kill_again_and_again(instances, streams, 6, random.Random(1))
            await streams.more(200)
    complete(streams)
    assert await resumes(gateway) > 20


@pytest.mark.long
async def test_a_hundred_sigkills_under_two_hundred_streams(suite: Suite, tmp_path: Path) -> None:
    instances, gateway = await start(suite, tmp_path)
    async with connection(gateway) as upstream:
        streams = await live(upstream, longest=400, pause_s=0.4, seed=2)
        async with streams.running(200, sequences=20):
            await kill_again_and_again(instances, streams, 100, random.Random(2))
            await streams.more(1000)
    print(f"{streams.begun} streams, {streams.steps} steps, {await resumes(gateway):.0f} resumed")
    complete(streams)


async def test_without_resuming_a_sigkill_breaks_streams(suite: Suite, tmp_path: Path) -> None:
    """The negative control: the tests above can fail."""
    instances, gateway = await start(suite, tmp_path, RESUME__ENABLED="false")
    async with connection(gateway) as upstream:
        streams = await live(upstream, longest=120, pause_s=0.05, seed=3)
        async with streams.running(60):
            await streams.more(300)
            instances.kill(instances.running[0])
            await streams.more(600)
    assert streams.failures
    assert [failure for failure in streams.failures if "UNAVAILABLE" not in failure] == []
    assert streams.begun == streams.ended


async def test_sigterm_of_each_in_turn(suite: Suite, tmp_path: Path) -> None:
    instances, gateway = await start(suite, tmp_path)
    async with connection(gateway) as upstream:
        streams = await live(upstream, longest=200, pause_s=0.1, seed=4)
        async with streams.running(60, sequences=10):
            for leaving in list(instances.running)[:2]:
                await streams.more(100)
                instances.running.remove(leaving)
                assert await leaving.stop() == 0
                await instances.start(leaving.name)
            await streams.more(200)
    complete(streams)
    assert await resumes(gateway) > 0


@pytest.mark.long
async def test_an_instance_that_hangs(suite: Suite, tmp_path: Path) -> None:
    instances, gateway = await start(suite, tmp_path)
    async with connection(gateway) as upstream:
        streams = await live(upstream, longest=200, pause_s=0.1, seed=5)
        async with streams.running(60):
            await streams.more(300)
            hanging = instances.running[0]
            hanging.send(signal.SIGSTOP)
            await suite.until(lambda: any(i.state == "critical" for i in suite.instances[SERVICE]))
            await streams.more(1000)
    hanging.send(signal.SIGCONT)
    complete(streams)


async def test_a_stream_that_cannot_go_on_says_how_far_it_came(suite: Suite, tmp_path: Path) -> None:
    instances, gateway = await start(suite, tmp_path, RESUME__TIMEOUT_S=2)
    async with connection(gateway) as upstream:
        streams = await live(upstream, longest=200, pause_s=0.1, seed=6)
        async with streams.running(10):
            await streams.more(100)
            for replica in list(instances.running):
                instances.kill(replica)
            await streams.more(10_000)
            await instances.start("sequence-1")
    assert streams.failures
    assert all("UNAVAILABLE" in failure and "'step': '" in failure for failure in streams.failures)
