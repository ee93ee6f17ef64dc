"""What this service counts besides its calls and its batches: what is live."""

from collections.abc import Sized

from prometheus_client import CollectorRegistry, Gauge

from services.kit.hooks import Admission


def watch(registry: CollectorRegistry, admission: Admission, sequences: Sized) -> None:
    """Shows from now on how many streams and sequences are live."""
    streams = Gauge("trivium_live_streams", "Track calls in flight.", registry=registry)
    streams.set_function(lambda: admission.streams)
    live = Gauge("trivium_live_sequences", "Sequences of the Open Inference Protocol kept here.", registry=registry)
    live.set_function(sequences.__len__)
