"""python -m gateway: finds the services through Consul and forwards calls to them. Reads as the start-up order."""

import random
import time

from gateway.attempts import Dispatch
from gateway.catalog import Catalog
from gateway.fleet import Fleet
from gateway.forwarder import Forwarder
from gateway.methods import MODEL_INFER, Methods
from gateway.metrics import GatewayMetrics
from gateway.model_service import ModelServicer
from gateway.oip import OipServicer
from gateway.readiness import Readiness
from gateway.resume.generate import Generate
from gateway.resume.kept import KeptSequences
from gateway.resume.oip_sequence import SequenceInfer
from gateway.resume.oip_text import TextInfer
from gateway.resume.track import Track
from gateway.retries import Budget, Retries
from gateway.routes import Routes
from gateway.settings import GatewaySettings
from gateway.stream_infer import StreamInfer
from services.kit.discovery import Watcher
from services.kit.lifecycle import Drain, Server, shutdown_signal, start
from services.kit.telemetry import new_registry
from services.kit.transport.upstream import Upstream


async def main(settings: GatewaySettings) -> None:
    """Serves until it is told to stop."""
    registry = new_registry("gateway", settings.instance)
    metrics = GatewayMetrics(registry)
    methods, routes = Methods.shipped(), Routes()
    fleet = Fleet(
        settings.catalog,
        settings.outliers,
        methods,
        routes,
        metrics,
        connect=lambda address: Upstream(address, settings.connections),
    )
    catalog = Catalog(fleet, settings.catalog)
    retries = Retries(settings.retries, Budget(settings.retries, time.monotonic), metrics)
    dispatch = Dispatch(retries, fleet.outliers, metrics, random.Random())
    forwarder = Forwarder(methods, routes, dispatch)
    sequences = KeptSequences(settings.sequences)
    infer = SequenceInfer(routes, dispatch, settings.resume, sequences, forward=forwarder.method(MODEL_INFER).handler)
    stream_infer = StreamInfer(routes, dispatch, infer, TextInfer(routes, dispatch, settings.resume), settings.streams)
    track = Track(routes, dispatch, settings.resume)
    generate = Generate(routes, dispatch, settings.resume)
    async with (
        fleet.running(),
        catalog.running(),
        sequences.running(),
        Server.open(
            "gateway",
            settings,
            registry,
            [ModelServicer(catalog), OipServicer(catalog)],
            tables=[infer.methods(), stream_infer.methods(), track.methods(), generate.methods()],
            fallback=forwarder.method,
            pool=methods.pool,
            names=lambda: [name for service in routes.services for name in methods.services(service)],
        ) as server,
        Watcher.open(settings.consul, registry, fleet.changed) as watcher,
        Drain(None, server, settings.drain_s, [track.hand_over]),
        Readiness.follow(fleet, catalog, methods, server, watcher),
    ):
        await shutdown_signal()


if __name__ == "__main__":
    start("gateway", main, GatewaySettings)
