"""Instances die, leave and hang while they write texts: each text ends complete, equal to the unbroken one."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inference import grpc_service_pb2 as oip
from services.kit.deadline import Deadline
from services.kit.transport.upstream import Upstream
from tests.chaos.live_infer_texts import inferred, random_requests
from tests.chaos.live_texts import Known, LiveTexts, random_request, written
from tests.chaos.mortal import Mortal, complete
from tests.harness import Replica, Suite, serving
from tests.language_bundles import Kind, tiny_bundle
from tests.texts import INFER, STREAM_INFER, infer_request

SERVICE = "trivium-language-v1"
BUNDLES: tuple[Kind, ...] = ("novel", "translate")
INSTANCES = 3
TOGETHER = {"language-1"}  # sends what quick steps make in one message
ANSWERS = 400  # at most between two deaths, in tokens
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
        settings: dict[str, Any] = {"ENGINE__THREADS": 1, "DEFAULT_MODEL": "novel"}
        if name not in TOGETHER:
            settings["GENERATION__STREAM_INTERVAL_S"] = 0  # a text may break behind any token
        replica = await self.suite.start("language", name, BUNDLES_DIR=self._folder, **settings)
        self.instances.append(replica)
        return replica

    async def start_gateway(self, name: str) -> None:
        gateway = await self.suite.start_gateway(name, **GATEWAYS[name])
        for bundle in BUNDLES:
            await serving(gateway.address, f"model/{bundle}")
        self.gateways[name] = gateway

    async def writer(self) -> Replica:
        """An instance that writes, as soon as there is one."""
        async with asyncio.timeout(60):
            while True:
                for one in self.instances:
                    if await one.metric("trivium_generation_texts_running", model="novel") > 1:
                        return one
                await asyncio.sleep(0.02)  # they tell of it by nothing but their metrics

    async def retries(self, **labels: str) -> float:
        return await self.gateways["gateway"].metric("trivium_gateway_retries_total", **labels)

    async def other_bits(self) -> float:
        return await self.gateways["gateway"].metric("trivium_gateway_resumes_on_other_bits_total")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("bundles")
    for bundle in BUNDLES:
        tiny_bundle(folder, bundle)
    async with Suite.open(tmp_path_factory.mktemp("suite")) as suite:
        running = Running(suite, folder)
        await asyncio.gather(*(running.start(f"language-{number}") for number in range(1, INSTANCES + 1)))
        await asyncio.gather(*map(running.start_gateway, GATEWAYS))
        yield running


async def live(upstream: Upstream, *, longest: int, seed: int, requests: int = 12) -> LiveTexts:
    rng = random.Random(seed)
    asked = [random_request(rng, longest) for _ in range(requests)]
    texts = await asyncio.gather(*(written(upstream, request) for request in asked))
    return LiveTexts(upstream, list(map(Known, asked, texts)), rng, written)


async def live_inferred(upstream: Upstream, *, longest: int, seed: int, requests: int = 12) -> LiveTexts:
    rng = random.Random(seed)
    asked = [random_requests(rng, longest) for _ in range(requests)]
    texts = await asyncio.gather(*(inferred(upstream, several) for several in asked))
    return LiveTexts(upstream, list(map(Known, asked, texts)), rng, inferred)


async def test_sigkill_of_the_instances_that_write_them(running: Running) -> None:
    async with running.caller() as upstream:
        texts = await live(upstream, longest=160, seed=1)
        async with texts.running(12):
            await running.kill_again_and_again(texts, 3, ANSWERS, random.Random(1))
            await texts.more(400)
    complete(texts)
    assert await running.resumes() >= 3  # as many as were killed
    assert await running.other_bits() == 0  # they all compute alike here


async def test_an_instance_that_hangs_while_it_writes_them(running: Running) -> None:
    before = await running.resumes()
    async with running.caller() as upstream:
        texts = await live(upstream, longest=160, seed=2)
        async with texts.running(12):
            await texts.more(100)
            hanging = await running.writer()
            hanging.send(signal.SIGSTOP)
            await running.suite.until(lambda: any(i.state == "critical" for i in running.suite.instances[SERVICE]))
            await texts.more(400)
        hanging.send(signal.SIGCONT)
        await running.suite.until(lambda: all(i.state == "passing" for i in running.suite.instances[SERVICE]))
    complete(texts)
    assert await running.resumes() > before


async def test_sigkill_of_the_instances_that_write_texts_of_the_open_inference_protocol(running: Running) -> None:
    before = await running.resumes(method=STREAM_INFER)
    async with running.caller() as upstream:
        texts = await live_inferred(upstream, longest=160, seed=6)
        async with texts.running(16):
            await running.kill_again_and_again(texts, 3, ANSWERS, random.Random(6))
            await texts.more(400)
    complete(texts)
    assert await running.resumes(method=STREAM_INFER) - before >= 10
    assert await running.other_bits() == 0


async def test_a_text_in_one_answer_is_asked_for_again_where_its_instance_dies(running: Running) -> None:
    """ModelInfer says nothing before the end, and is repeated as a whole."""

    async def whole(seed: int) -> oip.ModelInferResponse:
        request = infer_request("novel", "once", 480, seed=seed, temperature=1.0, ignore_eos=True)
        reply = await upstream.unary(INFER, request.SerializeToString(), (), Deadline.after(60))
        return oip.ModelInferResponse.FromString(reply.message)

    async with running.caller() as upstream:
        expected = [await whole(seed) for seed in range(4)]
        # So many that whoever is seen to write has not written all of its texts when it is killed.
        work = asyncio.ensure_future(asyncio.gather(*(whole(seed % 4) for seed in range(120))))
        doomed = await running.writer()
        running.kill(doomed)
        found = await work
    await running.again(doomed)
    assert found == expected * 30
    assert await running.retries(rule="safe") > 0


@pytest.mark.parametrize("kind", ["Generate", pytest.param("ModelStreamInfer", marks=pytest.mark.long)])
async def test_without_resuming_a_sigkill_breaks_texts(running: Running, kind: str) -> None:
    """The negative control: the tests above can fail."""
    make = live if kind == "Generate" else live_inferred
    async with running.caller("without") as upstream:
        texts = await make(upstream, longest=160, seed=3)
        async with texts.running(12):
            for _ in range(10):  # what it wrote may have ended just before it is killed
                await texts.more(200)
                doomed = await running.writer()
                running.kill(doomed)
                await running.again(doomed)
                if texts.failures:
                    break
    assert texts.failures
    assert [failure for failure in texts.failures if "UNAVAILABLE" not in failure and "failed" not in failure] == []
    assert texts.begun == texts.ended


async def test_a_text_that_cannot_go_on_says_how_far_it_came(running: Running) -> None:
    async with running.caller("impatient") as upstream:
        texts = await live(upstream, longest=160, seed=4)
        doomed = list(running.instances)
        async with texts.running(8):
            await texts.more(100)
            for replica in doomed:
                running.kill(replica)
            await texts.more(100_000)  # or until one fails
            await running.again(doomed[0])
    await asyncio.gather(*map(running.again, doomed[1:]))
    assert texts.failures
    for failure in texts.failures:
        assert "UNAVAILABLE" in failure
        assert "'token': '" in failure


@pytest.mark.long
@pytest.mark.parametrize(("kind", "calls"), [("Generate", 60), ("ModelStreamInfer", 40)])
async def test_a_hundred_sigkills_under_load(running: Running, kind: str, calls: int) -> None:
    """So many calls that texts wait for a place now and then, and lose the instance at which they wait."""
    make = live if kind == "Generate" else live_inferred
    before = await running.resumes()
    async with running.caller() as upstream:
        texts = await make(upstream, longest=400, seed=5, requests=40)
        async with texts.running(calls):
            await running.kill_again_and_again(texts, 100, ANSWERS, random.Random(5))
            await texts.more(2000)
    resumed = await running.resumes() - before
    print(f"{texts.begun} calls, {texts.tokens} tokens, {resumed:.0f} resumed")
    complete(texts)
    assert await running.other_bits() == 0
