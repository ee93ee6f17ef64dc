"""Instances die, leave and hang while streams and sequences are under way: each ends complete, equal to the bit."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.kit.transport.upstream import Upstream
from tests.chaos.live_streams import LiveStreams, random_series, unbroken
from tests.chaos.mortal import Mortal, complete
from tests.harness import Replica, Suite, serving
from tests.recurrent import KINDS, recurrent_bundle

MODEL, SERVICE = "rnn", "trivium-sequence-v1"
# Steps that each instance answers together: where a stream goes on, its messages of up to 8 are cut elsewhere.
WINDOWS = {"sequence-1": 32, "sequence-2": 3, "sequence-3": 2}
ANSWERS = 120  # at most between two deaths, in steps
# How the three gateways that look at the same instances differ.
GATEWAYS: dict[str, dict[str, Any]] = {
    "gateway": {},
    "impatient": {"RESUME__TIMEOUT_S": 2},
    "without": {"RESUME__ENABLED": "false"},
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Running(Mortal):
    """Three instances and the gateways."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        super().__init__(suite)
        self._folder = folder

    async def start(self, name: str) -> Replica:
        settings: dict[str, Any] = {"BATCHER__MAX_BATCH": 16, "SERIES__WINDOW_STEPS": WINDOWS[name]}
        replica = await self.suite.start("sequence", name, BUNDLES_DIR=self._folder, **settings)
        self.instances.append(replica)
        return replica

    async def start_gateway(self, name: str) -> None:
        gateway = await self.suite.start_gateway(name, **GATEWAYS[name])
        await serving(gateway.address, f"model/{MODEL}")
        self.gateways[name] = gateway


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


async def test_sigkill_of_the_instances_that_hold_them(running: Running) -> None:
    async with running.caller() as upstream:
        streams = await live(upstream, longest=100, pause_s=0.05, seed=1)
        async with streams.running(60, sequences=10):
            rng = random.Random(1)
            await running.kill_again_and_again(streams, 3, ANSWERS, rng)
            for _ in range(10):  # how many streams an instance holds when it dies is chance
                if await running.resumes() > 20 or streams.failures:
                    break
                await running.kill_again_and_again(streams, 1, ANSWERS, rng)
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
            await running.kill_again_and_again(streams, 100, ANSWERS, random.Random(2))
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
