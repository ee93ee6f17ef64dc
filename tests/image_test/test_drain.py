"""SIGTERM reaches Python in the container: it leaves without losing a call."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.harness import OPTIONS, Replica, Traffic, serving
from tests.image_test.engine import Engine
from tests.image_test.report import Report
from tests.image_test.suite import ImageSuite, sample
from trivium.vision.v1 import vision_pb2

RATE_PER_S = 50
IMAGE = vision_pb2.ClassifyRequest(image=sample("services/vision/samples/7-0007.png")).SerializeToString()


@pytest.fixture
async def suite(engine: Engine, images: Mapping[str, str], report: Report, tmp_path: Path) -> AsyncIterator[ImageSuite]:
    async with ImageSuite.of(tmp_path, engine, images, report) as suite:
        yield suite


async def gateway_of(suite: ImageSuite) -> Replica:
    gateway = await suite.start_gateway()
    await serving(gateway.address, "trivium.vision.v1.VisionService")
    return gateway


def connected(replica: Replica) -> Any:
    """A connection to it."""
    return grpc.aio.insecure_channel(replica.address, options=OPTIONS)


def classify(channel: Any) -> Any:
    method = channel.unary_unary("/trivium.vision.v1.VisionService/Classify")

    async def one() -> None:
        answer = vision_pb2.ClassifyResponse.FromString(await method(IMAGE, timeout=10))
        assert answer.classes[0].label == "7"

    return one


def words(child: Replica) -> str:
    return "\n".join(child.child.last_lines(10))


async def test_a_service_that_leaves_loses_no_call(suite: ImageSuite, report: Report) -> None:
    leaving = await suite.start("vision", "vision-1")
    await suite.start("vision", "vision-2")
    gateway = await gateway_of(suite)
    async with connected(gateway) as channel, Traffic(classify(channel), RATE_PER_S).running() as traffic:
        await traffic.more(50)
        assert await leaving.stop() == 0, words(leaving)
        await traffic.more(50)
    report.counts.append(
        f"SIGTERM to one of two vision containers at {RATE_PER_S} calls/s: {traffic.sent} sent, "
        f"{traffic.answered} answered, {len(traffic.failures)} failed."
    )
    assert traffic.failures == [], traffic.failures[:5]
    assert traffic.sent == traffic.answered
    assert '"cut_off": 0' in words(leaving)


async def test_a_gateway_that_leaves_answers_or_declares_every_call(suite: ImageSuite, report: Report) -> None:
    await suite.start("vision", "vision-1")
    leaving = await gateway_of(suite)
    async with connected(leaving) as channel, Traffic(classify(channel), RATE_PER_S).running() as traffic:
        await traffic.more(50)
        assert await leaving.stop() == 0, words(leaving)
        await traffic.more(20)
    report.counts.append(
        f"SIGTERM to the only gateway: {traffic.sent} sent, {traffic.answered} answered, "
        f"{len(traffic.failures)} declared (UNAVAILABLE)."
    )
    assert all(failure.startswith("UNAVAILABLE") for failure in traffic.failures)
    assert traffic.failures
    assert traffic.sent == traffic.answered + len(traffic.failures)
    assert '"cut_off": 0' in words(leaving)
