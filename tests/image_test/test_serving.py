"""Consul, the three services and the gateway from their images: calls are answered through the containers."""

import io
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from inference import grpc_service_pb2 as oip
from tests.harness import OPTIONS, serving
from tests.image_test.engine import Engine
from tests.image_test.report import Report
from tests.image_test.suite import ImageSuite, sample
from trivium.language.v1 import language_pb2
from trivium.sequence.v1 import sequence_pb2
from trivium.vision.v1 import vision_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIGIT = "services/vision/samples/7-0007.png"
SERIES = "services/sequence/samples/7-0007.csv"
CALL_S = 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    engine: Engine, images: Mapping[str, str], report: Report, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ImageSuite]:
    """All four, ready."""
    async with ImageSuite.of(tmp_path_factory.mktemp("serving"), engine, images, report) as suite:
        for service in ("vision", "sequence", "language"):
            await suite.start(service, f"{service}-1")
        gateway = await suite.start_gateway()
        for service in ("vision", "sequence", "language"):
            await serving(gateway.address, f"trivium.{service}.v1.{service.title()}Service")
        yield suite


@pytest_asyncio.fixture(loop_scope="module")
async def channel(suite: ImageSuite) -> AsyncIterator[Any]:
    """To the gateway."""
    async with grpc.aio.insecure_channel(suite.replicas[-1].address, options=OPTIONS) as channel:
        yield channel


async def called(channel: Any, path: str, request: Any, answer: Any) -> tuple[Any, str]:
    """The answer to one unary call, and the instance that gave it."""
    call = channel.unary_unary(path)(request.SerializeToString(), timeout=CALL_S)
    message = answer.FromString(await call)
    return message, dict(tuple(await call.trailing_metadata()))["trivium-instance"]


async def test_an_image_is_classified(channel: Any) -> None:
    request = vision_pb2.ClassifyRequest(image=sample(DIGIT))
    answer, instance = await called(
        channel, "/trivium.vision.v1.VisionService/Classify", request, vision_pb2.ClassifyResponse
    )
    assert (answer.classes[0].label, instance) == ("7", "vision-1")


async def test_a_series_is_classified(channel: Any) -> None:
    values = [float(value) for value in sample(SERIES).decode().split(",")]
    request = sequence_pb2.ClassifyRequest(values=values)
    answer, instance = await called(
        channel, "/trivium.sequence.v1.SequenceService/Classify", request, sequence_pb2.ClassifyResponse
    )
    assert (answer.classes[0].label, instance) == ("7", "sequence-1")


async def test_a_text_is_written(channel: Any) -> None:
    request = language_pb2.GenerateRequest(prompt="def fibonacci(n):\n", max_new_tokens=8, ignore_eos=True)
    call = channel.unary_stream("/trivium.language.v1.LanguageService/Generate")(
        request.SerializeToString(), timeout=CALL_S
    )
    messages = [language_pb2.GenerateResponse.FromString(message) async for message in call]
    assert sum(len(message.token_ids) for message in messages) == 8
    assert messages[-1].usage.generated_tokens == 8
    assert dict(tuple(await call.trailing_metadata()))["trivium-instance"] == "language-1"


async def test_the_open_inference_protocol_is_answered(channel: Any) -> None:
    picture = Image.open(io.BytesIO(sample(DIGIT))).convert("L").resize((28, 28))
    request = oip.ModelInferRequest(model_name="digits-cnn")
    request.inputs.add(name="image", datatype="UINT8", shape=[1, 28, 28, 1])
    request.raw_input_contents.append(np.asarray(picture, np.uint8).tobytes())
    request.outputs.add(name="logits")
    answer, instance = await called(
        channel, "/inference.GRPCInferenceService/ModelInfer", request, oip.ModelInferResponse
    )
    assert int(np.frombuffer(answer.raw_output_contents[0], np.float32).argmax()) == 7
    assert instance == "vision-1"


async def test_the_plaintext_health_port_knows_the_three_probes(suite: ImageSuite) -> None:
    for replica in suite.replicas:
        for probe in ("startup", "readiness", "liveness"):
            await suite.until_serving(replica, probe)


async def test_metrics_name_the_component_and_its_version(suite: ImageSuite) -> None:
    for replica in suite.replicas:
        assert await replica.metric("trivium_build_info", component=replica.component, version="0.1.0") == 1
