"""A service that the gateway has never seen works: found through Consul, described by its own reflection."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2

from tests.harness import Suite, error_info, serving

SERVICE = "trivium.audio.v1.AudioService"


async def described(channel: Any) -> descriptor_pool.DescriptorPool:
    """What the gateway's reflection says of the service; nothing here knows its proto."""
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
    call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    answers = [answer async for answer in call(iter([request.SerializeToString()]))]
    files = reflection_pb2.ServerReflectionResponse.FromString(answers[0]).file_descriptor_response
    pool = descriptor_pool.DescriptorPool()
    for file in reversed(files.file_descriptor_proto):
        pool.Add(FileDescriptorProto.FromString(file))
    return pool


async def test_a_new_service_is_reached_through_the_gateway_by_its_own_description(tmp_path: Path) -> None:
    async with Suite.open(tmp_path) as suite:
        gateway = await suite.start_gateway(ready="liveness")
        await suite.start("audio", "audio-1", "tests.integration.audio")
        await serving(gateway.address, SERVICE)
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            service = (await described(channel)).FindServiceByName(SERVICE)
            method = service.methods_by_name["Echo"]
            request = GetMessageClass(method.input_type)(model="anything", samples=b"la la")
            unary: Any = channel.unary_unary(f"/{SERVICE}/Echo")
            call = unary(request.SerializeToString(), timeout=5)
            assert GetMessageClass(method.output_type).FromString(await call).samples == b"la la"  # type: ignore[attr-defined]
            assert ("trivium-instance", "audio-1") in tuple(await call.trailing_metadata())

            async def many() -> Any:
                for number in range(100):
                    yield GetMessageClass(method.input_type)(samples=bytes([number])).SerializeToString()

            stream: Any = channel.stream_stream(f"/{SERVICE}/EchoStream")
            answers = [GetMessageClass(method.output_type).FromString(answer) async for answer in stream(many())]
            assert [answer.samples for answer in answers] == [bytes([number]) for number in range(100)]  # type: ignore[attr-defined]


async def test_a_method_that_the_new_service_lacks_is_unimplemented(tmp_path: Path) -> None:
    async with Suite.open(tmp_path) as suite:
        await suite.start("audio", "audio-1", "tests.integration.audio")
        gateway = await suite.start_gateway()
        await serving(gateway.address, SERVICE)
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            method: Any = channel.unary_unary(f"/{SERVICE}/Sing")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert error_info(caught.value).reason == "UNKNOWN_METHOD"
