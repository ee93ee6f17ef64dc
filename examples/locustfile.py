"""Load on a gateway with locust: locust -f examples/locustfile.py --headless -u 8 -t 10s

The host is the gateway's address, localhost:8001 unless --host says otherwise. A Viewer sends one image of
services/vision/samples after the other, each as soon as the last one is answered; a Listener does the same with the
pixels of services/sequence/samples on one live stream. Name one of them to have only that one.
"""

import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from grpc.experimental import gevent as grpc_gevent
from locust import User, task

from trivium.client import Client, TriviumCallError

grpc_gevent.init_gevent()  # before the first channel: a call then yields to the other users

SERVICES = Path(__file__).parents[1] / "services"
IMAGES = [path.read_bytes() for path in sorted((SERVICES / "vision" / "samples").glob("[0-9]-*.png"))]
SERIES = [
    [float(pixel) for pixel in path.read_text("utf-8").split(",")]
    for path in sorted((SERVICES / "sequence" / "samples").glob("[0-9]-*.csv"))
]


class Caller(User):
    """Someone with a client whose calls are counted."""

    abstract = True
    host = "localhost:8001"

    def on_start(self) -> None:
        self.client = Client(self.host)

    def on_stop(self) -> None:
        self.client.close()

    def timed(self, name: str, call: Callable[[], object]) -> None:
        started, failure = time.perf_counter(), None
        try:
            call()
        except TriviumCallError as error:
            failure = error
        ms = (time.perf_counter() - started) * 1e3
        self.environment.events.request.fire(
            request_type="gRPC", name=name, response_time=ms, response_length=0, exception=failure, context={}
        )


class Viewer(Caller):
    """Classifies one image after the other."""

    images = itertools.cycle(IMAGES)

    @task
    def classify(self) -> None:
        self.timed("Classify", partial(self.client.classify, next(self.images)))


class Listener(Caller):
    """Shows digits pixel by pixel, each on a stream of its own."""

    series = itertools.cycle(SERIES)

    @task
    def track(self) -> None:
        with self.client.tracker() as tracker:
            for pixel in next(self.series):
                self.timed("Track, one step", partial(tracker.send, pixel))
