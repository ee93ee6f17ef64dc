"""`python -m services.vision`: loads the models, serves them and tells Consul."""

from pathlib import Path

from services.kit.discovery.client import consul_service
from services.kit.inference.engine import share_threads
from services.kit.inference.loading import batched
from services.kit.inference.model_service import ModelServicer
from services.kit.inference.models import Models
from services.kit.inference.oip import OipServicer, not_offered
from services.kit.lifecycle import Drain, Server, shutdown_signal, start
from services.kit.service import announced
from services.kit.telemetry import new_registry
from services.kit.transport.health import READINESS, Health
from services.vision.decoder import Decoder
from services.vision.pipeline import Pipeline
from services.vision.servicer import VisionServicer
from services.vision.settings import VisionSettings

SERVICE = "vision"
BUNDLES = Path(__file__).parent / "bundles"


async def main(settings: VisionSettings) -> None:
    """Serves until it is told to stop; starts downwards, stops upwards."""
    share_threads(settings.engine)
    registry = new_registry(SERVICE, settings.instance)
    health = Health()
    async with (
        Decoder.open(settings.decoder) as decoder,
        Models.open(settings.models(SERVICE, BUNDLES), batched(Pipeline.of), registry) as models,
        Server.open(
            SERVICE,
            settings,
            registry,
            [
                VisionServicer(models, decoder, instance=settings.instance, stream_window=settings.stream_window),
                ModelServicer(models),
                OipServicer(models, lambda: health.serving(READINESS)),
            ],
            health=health,
            tables=[not_offered()],
        ) as server,
        announced(models, server, settings.consul, consul_service("trivium.vision.v1")) as registration,
        Drain(registration, server, settings.drain_s),
    ):
        await shutdown_signal()


if __name__ == "__main__":
    start(SERVICE, main, VisionSettings)
