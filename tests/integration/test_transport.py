"""The transport over real connections: whatever a caller sends, it gets the right code and the process lives on."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import CollectorRegistry

from services.kit.call import Call
from services.kit.errors import InvalidField
from services.kit.lifecycle import Server
from services.kit.process import ProcessSettings
from services.kit.transport.server import ServerLimits
from trivium.vision.v1 import vision_pb2

CLASSIFY = "/trivium.vision.v1.VisionService/Classify"
STREAM = "/trivium.vision.v1.VisionService/ClassifyStream"
MIB = 1024 * 1024
SLOW_ANSWERS = 6  # to a caller that says nothing more, one every 0.15 s


class Echo:
    """Answers Classify with the image's text as its only label; some texts misbehave."""

    service: ClassVar[ServiceDescriptor] = vision_pb2.DESCRIPTOR.services_by_name["VisionService"]

    def __init__(self) -> None:
        self.entered, self.cancelled = asyncio.Event(), asyncio.Event()

    async def classify(self, request: vision_pb2.ClassifyRequest, call: Call) -> vision_pb2.ClassifyResponse:
        call.stage = "decode"
        if request.image == b"hang":
            self.entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if request.image == b"refuse":
            raise InvalidField("image is no image", field="image", value="refuse")
        if request.image == b"stray cancel":
            waiting = asyncio.get_running_loop().create_future()
            waiting.cancel()
            await waiting
        if request.image == b"crash":
            raise ZeroDivisionError("secret")
        response = vision_pb2.ClassifyResponse()
        response.classes.add(label=f"{len(request.image)} bytes")
        return response

    async def classify_stream(
        self, requests: AsyncIterator[vision_pb2.ClassifyStreamRequest], call: Call
    ) -> AsyncIterator[vision_pb2.ClassifyStreamResponse]:
        async for request in requests:
            yield vision_pb2.ClassifyStreamResponse(id=request.id)
            if request.id == "slow":
                waiting = asyncio.ensure_future(anext(requests, None))
                for _ in range(SLOW_ANSWERS):
                    await asyncio.wait((waiting,), timeout=0.15)
                    yield vision_pb2.ClassifyStreamResponse(id=request.id)
                await waiting


class Running:
    """A server with an Echo, and a channel to it."""

    def __init__(self, server: Server, echo: Echo, channel: Any) -> None:
        self.server, self.echo, self.channel = server, echo, channel

    async def classify(self, image: bytes, **options: Any) -> str:
        data = vision_pb2.ClassifyRequest(image=image).SerializeToString()
        answer = await self.raw(CLASSIFY, data, **options)
        return vision_pb2.ClassifyResponse.FromString(answer).classes[0].label

    def raw(self, path: str, data: bytes, **options: Any) -> Any:
        return self.channel.unary_unary(path)(data, **options)


@contextlib.asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[Running]:
    process, echo = ProcessSettings(instance="vision-1", limits=ServerLimits(**limits)), Echo()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with Server.open("vision", process, CollectorRegistry(), [echo]) as server:
        server.ready()
        async with grpc.aio.insecure_channel(server.address, options=options) as channel:
            yield Running(server, echo, channel)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with serving() as found:
        yield found


def info(error: grpc.aio.AioRpcError) -> ErrorInfo:
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    found = ErrorInfo()
    assert any(detail.Unpack(found) for detail in status.details)
    return found


async def fails(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


async def test_an_answer_says_which_instance_gave_it(running: Running) -> None:
    call = running.raw(CLASSIFY, vision_pb2.ClassifyRequest(image=b"abc").SerializeToString())
    await call
    assert ("trivium-instance", "vision-1") in tuple(await call.trailing_metadata())


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x0a\xff", b"\x0a\x02\xff\xfe"])
async def test_garbage_is_a_malformed_request(running: Running, data: bytes) -> None:
    error = await fails(running.raw(CLASSIFY, data))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info(error).reason == "MALFORMED_REQUEST"
    assert info(error).metadata["executed"] == "no"
    assert await running.classify(b"abc") == "3 bytes"


async def test_garbage_on_a_stream_ends_that_stream_only(running: Running) -> None:
    async def messages() -> AsyncIterator[bytes]:
        yield vision_pb2.ClassifyStreamRequest(id="good").SerializeToString()
        yield b"\xff" * 20

    call = running.channel.stream_stream(STREAM)(messages())
    assert vision_pb2.ClassifyStreamResponse.FromString(await call.read()).id == "good"
    error = await fails(call.read())
    assert (error.code(), info(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_a_refusal_names_reason_stage_and_instance(running: Running) -> None:
    error = await fails(running.classify(b"refuse"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info(error).reason == "INVALID_FIELD"
    assert dict(info(error).metadata) == {
        "executed": "no",
        "stage": "decode",
        "instance": "vision-1",
        "field": "image",
        "value": "refuse",
    }


async def test_a_fault_of_ours_is_internal_and_says_nothing_more(running: Running) -> None:
    error = await fails(running.classify(b"crash"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(error)
    assert await running.classify(b"abc") == "3 bytes"


async def test_a_handlers_own_cancelled_work_is_a_fault_of_ours(running: Running) -> None:
    error = await fails(running.classify(b"stray cancel", timeout=5))
    assert (error.code(), info(error).reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


async def test_a_message_over_the_limit_is_refused_and_the_connection_stays() -> None:
    async with serving(max_message_bytes=MIB) as running:
        error = await fails(running.classify(bytes(MIB + 1)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await running.classify(bytes(MIB - 100)) == f"{MIB - 100} bytes"


@pytest.mark.parametrize("timeout_s", [0, -1])
async def test_a_deadline_that_has_passed_is_exceeded(running: Running, timeout_s: float) -> None:
    """The transport sends no timeout below a millisecond: an answer that is quicker would still arrive."""
    error = await fails(running.classify(b"hang", timeout=timeout_s))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await running.classify(b"abc") == "3 bytes"


async def test_a_deadline_ends_the_work(running: Running) -> None:
    error = await fails(running.classify(b"hang", timeout=0.2))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(running.echo.cancelled.wait(), 5)


async def test_a_unary_call_without_a_deadline_gets_one() -> None:
    async with serving(unary_timeout_s=0.2) as running:
        error = await fails(running.classify(b"hang"))
        assert (error.code(), info(error).reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED")
        assert running.echo.cancelled.is_set()


async def test_work_for_a_caller_that_left_is_dropped(running: Running) -> None:
    call = running.raw(CLASSIFY, vision_pb2.ClassifyRequest(image=b"hang").SerializeToString())
    await running.echo.entered.wait()
    call.cancel()
    await asyncio.wait_for(running.echo.cancelled.wait(), 5)


async def test_a_silent_stream_is_ended() -> None:
    async with serving(stream_idle_s=0.2) as running:

        async def messages() -> AsyncIterator[bytes]:
            yield vision_pb2.ClassifyStreamRequest(id="1").SerializeToString()
            await asyncio.Event().wait()

        call = running.channel.stream_stream(STREAM)(messages())
        await call.read()
        error = await fails(call.read())
        assert (error.code(), info(error).reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED")


async def test_a_stream_that_is_answered_is_not_silent() -> None:
    async with serving(stream_idle_s=0.4) as running:

        async def messages() -> AsyncIterator[bytes]:
            yield vision_pb2.ClassifyStreamRequest(id="slow").SerializeToString()
            await asyncio.Event().wait()

        call = running.channel.stream_stream(STREAM)(messages())
        answers = [vision_pb2.ClassifyStreamResponse.FromString(await call.read()).id for _ in range(1 + SLOW_ANSWERS)]
        assert answers == ["slow"] * (1 + SLOW_ANSWERS)  # over more time than the limit
        call.cancel()


async def test_calls_over_the_limit_are_refused_with_a_time_to_come_back() -> None:
    async with serving(max_calls=1) as running:
        first = running.raw(CLASSIFY, vision_pb2.ClassifyRequest(image=b"hang").SerializeToString())
        await running.echo.entered.wait()
        error = await fails(running.classify(b"abc"))
        assert (error.code(), info(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        first.cancel()


async def test_a_burst_is_answered_or_refused_with_a_reason() -> None:
    """gRPC Core would end some of more than 1000 waiting calls by itself, with a bare CANCELLED."""
    async with serving(max_calls=100) as running:
        calls = [fails_or_not(running.classify(b"abc")) for _ in range(2500)]
        outcomes = Counter(await asyncio.gather(*calls))
    assert outcomes.total() == 2500
    assert set(outcomes) <= {"OK", "RESOURCE_EXHAUSTED QUEUE_FULL"}


async def fails_or_not(call: Any) -> str:
    """OK, or the code and the reason."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {info(error).reason}"
    return "OK"


@pytest.mark.parametrize("path", ["/trivium.vision.v1.VisionService/Paint", "/no.such.Service/Method"])
async def test_an_unknown_method_is_named(running: Running, path: str) -> None:
    error = await fails(running.raw(path, b""))
    assert (error.code(), info(error).reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")
    assert path in (error.details() or "")


async def test_health_answers_checks_and_watches(running: Running) -> None:
    async def check(name: str) -> int:
        data = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        answer = await running.raw("/grpc.health.v1.Health/Check", data)
        return health_pb2.HealthCheckResponse.FromString(answer).status

    serving_now, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", "startup", "readiness", "liveness", "trivium.vision.v1.VisionService"):
        assert await check(name) == serving_now
    assert (await fails(check("nobody"))).code() is grpc.StatusCode.NOT_FOUND
    watch = running.channel.unary_stream("/grpc.health.v1.Health/Watch")(
        health_pb2.HealthCheckRequest(service="readiness").SerializeToString()
    )
    assert health_pb2.HealthCheckResponse.FromString(await watch.read()).status == serving_now
    running.server.ready(False)
    assert health_pb2.HealthCheckResponse.FromString(await watch.read()).status == not_serving
    assert await check("liveness") == serving_now
    running.server.health.close()
    assert await watch.read() is grpc.aio.EOF


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_every_service(running: Running, version: str) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="trivium.vision.v1.VisionService.Classify"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"grpc.reflection.{version}.ServerReflection"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Symbol"),
        reflection_pb2.ServerReflectionRequest(),
    ]
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    method: Callable[..., Any] = running.channel.stream_stream(path)
    call = method(iter([request.SerializeToString() for request in requests]))
    answers = [reflection_pb2.ServerReflectionResponse.FromString(answer) async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"trivium.vision.v1.VisionService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= names
    assert len(answers[1].file_descriptor_response.file_descriptor_proto) >= 3  # with all that it imports
    assert answers[2].file_descriptor_response.file_descriptor_proto
    assert [answer.error_response.error_code for answer in answers[3:]] == [5, 3]
