"""A container that cannot serve says in one line what is wrong and in another what to do, and is never READY."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests import bundles
from tests.harness import OPTIONS, Replica
from tests.image_test.engine import Engine
from tests.image_test.report import Report
from tests.image_test.suite import ImageSuite

END_S = 60


@pytest.fixture
async def suite(engine: Engine, images: Mapping[str, str], report: Report, tmp_path: Path) -> AsyncIterator[ImageSuite]:
    async with ImageSuite.of(tmp_path, engine, images, report) as suite:
        yield suite


async def last_words(suite: ImageSuite, component: str, status: int = 1, **settings: Any) -> tuple[str, str]:
    """Error and hint of a container that ends by itself, and has never been registered, hence never READY."""
    replica = await suite.launch(component, f"{component}-1", **settings)
    async with asyncio.timeout(END_S):
        code = await replica.child.wait()
    lines = replica.child.last_lines(40)
    text = "\n".join(lines)
    assert code == status, text
    assert "Traceback" not in text
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 1, text
    assert lines[errors[0] + 1].startswith("  hint: "), text
    assert not any('"registered"' in line for line in lines)
    return lines[errors[0]], lines[errors[0] + 1]


async def test_a_folder_of_bundles_that_is_not_there(suite: ImageSuite) -> None:
    error, hint = await last_words(suite, "vision", BUNDLES_DIR="/models")
    assert "/models" in error
    assert "BUNDLES_DIR" in hint


async def test_a_bundle_whose_model_is_missing(suite: ImageSuite, open_folder: Path) -> None:
    bundle = bundles.colours(open_folder)
    (bundle.path / "model.onnx").unlink()
    error, hint = await last_words(suite, "vision", volumes={open_folder: "/bundles"})
    assert "/bundles/colours/1/model.onnx: is missing" in error
    assert "copy the whole bundle again" in hint


async def test_a_default_model_that_is_none(suite: ImageSuite) -> None:
    error, hint = await last_words(suite, "sequence", DEFAULT_MODEL="digits-cnn")
    assert "digits-cnn" in error
    assert "digits-rnn" in hint


async def test_a_folder_that_this_user_may_not_read(suite: ImageSuite, closed_folder: Path) -> None:
    error, hint = await last_words(suite, "vision", volumes={closed_folder: "/bundles"})
    assert "/bundles" in error
    assert "Permission denied" in error
    assert "may read" in hint


@pytest.mark.parametrize("service", ["vision", "sequence", "language"])
async def test_a_gpu_that_is_not_there(suite: ImageSuite, service: str) -> None:
    error, hint = await last_words(suite, service, ENGINE__DEVICE="cuda")
    assert "cuda" in error.lower()
    assert "ENGINE__DEVICE=cpu" in hint


@pytest.mark.parametrize("component", ["gateway", "vision", "sequence", "language"])
async def test_a_setting_that_does_not_exist(suite: ImageSuite, component: str) -> None:
    error, hint = await last_words(suite, component, 78, GRCP_PORT=1)
    assert f"TRIVIUM_{component.upper()}__GRCP_PORT" in error
    assert f"TRIVIUM_{component.upper()}__GRPC_PORT" in hint


async def test_no_address_to_advertise(suite: ImageSuite) -> None:
    error, hint = await last_words(suite, "vision", ADVERTISE_ADDRESS=None)
    assert "ADVERTISE_ADDRESS" in error
    assert "ADVERTISE_ADDRESS" in hint


async def test_a_service_without_consul_keeps_trying_and_is_ready_once_it_is_there(suite: ImageSuite) -> None:
    consul = suite.later_consul()
    replica = await suite.launch("vision", "vision-1", CONSUL__ADDRESS=consul.address)
    await suite.until_serving(replica, "startup")
    await failures(replica, "trivium_consul_errors_total", 2)
    assert await status(suite, replica) == {"readiness": False, "": False, "liveness": True}
    consul.folder.mkdir()
    await consul.start()
    try:
        await suite.until_serving(replica, "readiness")
    finally:
        await consul.kill()


async def test_a_gateway_without_consul_keeps_trying_and_starts_once_it_is_there(suite: ImageSuite) -> None:
    consul = suite.later_consul()
    replica = await suite.launch("gateway", "gateway-1", CONSUL__ADDRESS=consul.address)
    await suite.until_serving(replica, "liveness")
    await failures(replica, "trivium_consul_watch_errors_total", 2)
    assert await status(suite, replica) == {"readiness": False, "": False, "liveness": True}
    consul.folder.mkdir()
    await consul.start()
    try:
        await suite.until_serving(replica, "startup")
    finally:
        await consul.kill()


async def failures(replica: Replica, counter: str, least: int) -> None:
    """Returns when the process has failed to reach Consul that often."""
    async with asyncio.timeout(END_S):
        while await replica.metric(counter) < least:  # noqa: ASYNC110  it tells by metrics only
            await asyncio.sleep(0.05)


async def status(suite: ImageSuite, replica: Replica) -> dict[str, bool]:
    """Which names the plaintext health port calls SERVING."""
    found = {}
    async with grpc.aio.insecure_channel(suite.health[replica.name], options=OPTIONS) as channel:
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        for name in ("readiness", "", "liveness"):
            request = health_pb2.HealthCheckRequest(service=name).SerializeToString()
            answer = health_pb2.HealthCheckResponse.FromString(await check(request, timeout=10))
            found[name] = answer.status == health_pb2.HealthCheckResponse.SERVING
    return found
