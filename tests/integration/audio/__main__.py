"""Starts the audio service: nothing but the kit."""

from collections.abc import AsyncIterator
from typing import Any, ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from services.kit import telemetry
from services.kit.call import Call
from services.kit.discovery import Registration
from services.kit.lifecycle import Drain, Server, shutdown_signal, start
from services.kit.process import ProcessSettings
from tests.integration.audio.messages import audio


class AudioServicer:
    service: ClassVar[ServiceDescriptor] = audio().services_by_name["AudioService"]

    async def echo(self, request: Any, call: Call) -> Any:
        return GetMessageClass(audio().message_types_by_name["EchoResponse"])(samples=request.samples)

    async def echo_stream(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        async for request in requests:
            yield GetMessageClass(audio().message_types_by_name["EchoStreamResponse"])(samples=request.samples)


async def main(settings: ProcessSettings) -> None:
    registry = telemetry.new_registry("audio", settings.instance)
    async with (
        Server.open("audio", settings, registry, [AudioServicer()]) as server,
        Registration.open(
            settings.consul,
            service="trivium-audio-v1",
            instance=server.instance,
            address=server.address,
            check_address=server.health_address,
            meta=lambda: {"protocol": "grpc"},
            registry=registry,
        ) as registration,
        Drain(registration, server, settings.drain_s),
    ):
        server.ready()
        await shutdown_signal()


if __name__ == "__main__":
    start("audio", main, ProcessSettings)
