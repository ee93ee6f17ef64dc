"""Instances die, leave and hang while streams and sequences are under way: each ends complete, equal to the bit."""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.kit.transport.upstream import Upstream, UpstreamSettings
from tests.chaos.live_streams import LiveStreams, random_series, unbroken
from tests.harness import Replica, Suite, serving
from tests.recurrent import KINDS, recurrent_bundle

MODEL, SERVICE = "rnn", "trivium-sequence-v1"
# Steps that each instance answers together: where a stream goes on, its messages of up to 8 are cut elsewhere.
WINDOWS = {"sequence-1": 32, "sequence-2": 3, "sequence-3": 2}
# How the three gateways that look at the same instances differ.
GATEWAYS: dict[str, dict[str, Any]] = {
    "gateway": {},
    "impatient": {"RESUME__TIMEOUT_S": 2},
    "without": {"RESUME__ENABLED": "false"},
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Running:
    """Three instances, of which one or two at a time may be missing, and the gateways."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self.suite, self._folder = suite, folder
        self.instances: list[Replica] = []
        self.gateways: dict[str, Replica] = {}

    async def start(self, name: str) -> Replica:
        settings: dict[str, Any] = {"BATCHER__MAX_BATCH": 16, "SERIES__WINDOW_STEPS": WINDOWS[name]}
        replica = await self.suite.start("sequence", name, BUNDLES_DIR=self._folder, **settings)
        self.instances.append(replica)
        return replica

    async def start_gateway(self, name: str) -> None:
        gateway = await self.suite.start_gateway(name, **GATEWAYS[name])
        await serving(gateway.address, f"model/{MODEL}")
        self.gateways[name] = gateway

    def kill(self, replica: Replica) -> None:
        self.instances.remove(replica)
        replica.kill()

    async def again(self, replica: Replica) -> None:
        await replica.child.wait()
        await self.start(replica.name)

    async def resumes(self) -> float:
        return await self.gateways["gateway"].metric("trivium_gateway_stream_resumes_total")

    @contextlib.asynccontextmanager
    async def caller(self, gateway: str = "gateway") -> AsyncIterator[Upstream]:
        """The kit's own client, since a plain grpc.aio stream now and then loses the status that it ended with."""
        upstream = Upstream(self.gateways[gateway].address, UpstreamSettings())
        try:
            yield upstream
        finally:
            await upstream.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("bundles")
    recurrent_bundle(folder, MODEL, **KINDS[MODEL])
    async with Suite.open(tmp_path_factory.mktemp("suite")) as suite:
        running = Running(suite, folder)
        await asyncio.gather(*map(running.start, WINDOWS))
        await asyncio.gather(*map(running.start_gateway, GATEWAYS))
        yield running


async def live(upstream: Upstream, *, longest: int, pause_s: float, seed: int) -> LiveStreams:
    rng = random.Random(seed)
    cut = [random_series(rng, longest) for _ in range(16)]
    known = await asyncio.gather(*(unbroken(upstream, MODEL, messages) for messages in cut))
    return LiveStreams(upstream, MODEL, list(known), pause_s, rng)


async def kill_again_and_again(running: Running, streams: LiveStreams, kills: int, rng: random.Random) -> None:
    """Kills a random instance after a random number of answers; every third time or so, two right after one another."""
    done = 0
    while done < kills and not streams.failures:
        await streams.more(rng.randint(1, 120))
        doomed = [rng.choice(running.instances)]
        running.kill(doomed[0])
        if done % 4 == 1:
            await streams.more(rng.randint(1, 10))
            doomed.append(rng.choice(running.instances))
            running.kill(doomed[1])
        done += len(doomed)
        await asyncio.gather(*map(running.again, doomed))


def complete(streams: LiveStreams) -> None:
    assert streams.failures == []
    assert streams.begun == streams.ended


async def test_sigkill_of_the_instances_that_hold_them(running: Running) -> None:
    async with running.caller() as upstream:
        streams = await live(upstream, longest=100, pause_s=0.05, seed=1)
        async with streams.running(60, sequences=10):
            await kill_again_and_again(running, streams, 3, random.Random(1))
            await streams.more(200)
    complete(streams)
    assert await running.resumes() > 20


async def test_sigterm_of_the_instance_that_holds_them(running: Running) -> None:
    before = await running.resumes()
    async with running.caller() as upstream:
        streams = await live(upstream, longest=100, pause_s=0.1, seed=4)
        async with streams.running(60, sequences=10):
            await streams.more(100)
            leaving = running.instances.pop(0)
            assert await leaving.stop() == 0
            await running.start(leaving.name)
            await streams.more(200)
    complete(streams)
    assert await running.resumes() > before


async def test_without_resuming_a_sigkill_breaks_streams(running: Running) -> None:
    """The negative control: the tests above can fail."""
    async with running.caller("without") as upstream:
        streams = await live(upstream, longest=120, pause_s=0.05, seed=3)
        async with streams.running(60):
            await streams.more(300)
            doomed = running.instances[0]
            running.kill(doomed)
            await streams.more(600)
    await running.again(doomed)
    assert streams.failures
    assert [failure for failure in streams.failures if "UNAVAILABLE" not in failure] == []
    assert streams.begun == streams.ended


async def test_a_stream_that_cannot_go_on_says_how_far_it_came(running: Running) -> None:
    async with running.caller("impatient") as upstream:
        streams = await live(upstream, longest=100, pause_s=0.1, seed=6)
        doomed = list(running.instances)
        async with streams.running(10):
            await streams.more(100)
            for replica in doomed:
                running.kill(replica)
            await streams.more(10_000)  # or until one fails
            await running.again(doomed[0])
    await asyncio.gather(*map(running.again, doomed[1:]))
    assert streams.failures
    assert [failure for failure in streams.failures if "UNAVAILABLE" not in failure or "'step': '" not in failure] == []


@pytest.mark.long
async def test_a_hundred_sigkills_under_two_hundred_streams(running: Running) -> None:
    before = await running.resumes()
    async with running.caller() as upstream:
        streams = await live(upstream, longest=400, pause_s=0.4, seed=2)
        async with streams.running(200, sequences=20):
            await kill_again_and_again(running, streams, 100, random.Random(2))
            await streams.more(1000)
    resumed = await running.resumes() - before
    print(f"{streams.begun} streams and sequences, {streams.steps} steps, {resumed:.0f} resumed")
    complete(streams)


@pytest.mark.long
async def test_an_instance_that_hangs(running: Running) -> None:
    async with running.caller() as upstream:
        streams = await live(upstream, longest=200, pause_s=0.1, seed=5)
        async with streams.running(60):
            await streams.more(300)
            hanging = running.instances[0]
            hanging.send(signal.SIGSTOP)
            await running.suite.until(lambda: any(i.state == "critical" for i in running.suite.instances[SERVICE]))
            await streams.more(1000)
        hanging.send(signal.SIGCONT)
    complete(streams)
