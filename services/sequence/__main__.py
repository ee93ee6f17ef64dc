"""`python -m services.sequence`: loads the models, serves them and tells Consul."""

from pathlib import Path

from services.kit.discovery.client import consul_service
from services.kit.inference.engine import share_threads
from services.kit.inference.loading import batched
from services.kit.inference.model_service import ModelServicer
from services.kit.inference.models import Models
from services.kit.inference.oip import OipServicer, not_offered
from services.kit.interpreter import hand_over_soon
from services.kit.lifecycle import Drain, Server, shutdown_signal, start
from services.kit.sequences import Sequences
from services.kit.service import announced
from services.kit.telemetry import new_registry
from services.kit.transport.health import READINESS, Health
from services.sequence.leaving import Leaving
from services.sequence.metrics import watch
from services.sequence.oip import SequenceInfer
from services.sequence.pipeline import Pipeline
from services.sequence.recurrent import runner_of
from services.sequence.servicer import SequenceServicer
from services.sequence.settings import SequenceSettings
from services.sequence.state import StreamState

SERVICE = "sequence"
BUNDLES = Path(__file__).parent / "bundles"


async def main(settings: SequenceSettings) -> None:
    """Serves until it is told to stop; starts downwards, stops upwards."""
    hand_over_soon()
    share_threads(settings.engine)
    registry = new_registry(SERVICE, settings.instance)
    health, leaving = Health(), Leaving()
    sequences: Sequences[StreamState] = Sequences(settings.sequences)
    infer = SequenceInfer(sequences, settings.series.window_steps)
    async with (
        sequences.running(),
        Models.open(settings.models(SERVICE, BUNDLES), batched(Pipeline.of, runner_of), registry) as models,
        Server.open(
            SERVICE,
            settings,
            registry,
            [
                SequenceServicer(models, settings.series, leaving),
                ModelServicer(models),
                OipServicer(
                    models,
                    lambda: health.serving(READINESS),
                    infer,
                    settings.sequences.idle_s,
                    refused=infer.refused,
                ),
            ],
            health=health,
            tables=[not_offered()],
        ) as server,
        announced(models, server, settings.consul, consul_service("trivium.sequence.v1")) as registration,
        Drain(registration, server, settings.drain_s, hand_over=[leaving.leave]),
    ):
        watch(registry, server.admission, sequences)
        await shutdown_signal()


if __name__ == "__main__":
    start(SERVICE, main, SequenceSettings)
