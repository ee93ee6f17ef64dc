"""`python -m services.language`: loads the models, serves them and tells Consul."""

from pathlib import Path

from services.kit.discovery.client import consul_service
from services.kit.inference.engine import share_threads
from services.kit.inference.model_service import ModelServicer
from services.kit.inference.models import Models
from services.kit.inference.oip import OipServicer, not_offered
from services.kit.interpreter import hand_over_soon
from services.kit.lifecycle import Drain, Server, shutdown_signal, start
from services.kit.service import announced
from services.kit.telemetry import new_registry
from services.kit.transport.health import READINESS, Health
from services.language.leaving import Leaving
from services.language.loader import loader
from services.language.metrics import GenerationMetrics
from services.language.oip import TextInfer
from services.language.servicer import LanguageServicer
from services.language.settings import LanguageSettings

SERVICE = "language"
BUNDLES = Path(__file__).parent / "bundles"


async def main(settings: LanguageSettings) -> None:
    """Serves until it is told to stop; starts downwards, stops upwards."""
    hand_over_soon()
    share_threads(settings.engine)
    registry = new_registry(SERVICE, settings.instance)
    health, leaving = Health(), Leaving()
    infer = TextInfer(leaving)
    load = loader(settings.generation, GenerationMetrics(registry))
    async with (
        Models.open(settings.models(SERVICE, BUNDLES), load, registry) as models,
        Server.open(
            SERVICE,
            settings,
            registry,
            [
                LanguageServicer(models, leaving),
                ModelServicer(models),
                OipServicer(models, lambda: health.serving(READINESS), infer, decoupled=infer),
            ],
            health=health,
            tables=[not_offered()],
        ) as server,
        announced(models, server, settings.consul, consul_service("trivium.language.v1")) as registration,
        Drain(registration, server, settings.drain_s, hand_over=[leaving.leave]),
    ):
        await shutdown_signal()


if __name__ == "__main__":
    start(SERVICE, main, LanguageSettings)
