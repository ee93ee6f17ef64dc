"""Load on a gateway with locust: locust -f examples/locustfile.py --headless -u 8 -t 10s

The host is the gateway's address, localhost:8001 unless --host says otherwise; the images are the digits of
services/vision/samples. Each user sends its next image as soon as the last one is answered.
"""

import itertools
import time
from pathlib import Path

from grpc.experimental import gevent as grpc_gevent
from locust import User, task

from trivium.client import Client, TriviumCallError

grpc_gevent.init_gevent()  # before the first channel: a call then yields to the other users

SAMPLES = Path(__file__).parents[1] / "services" / "vision" / "samples"
IMAGES = [path.read_bytes() for path in sorted(SAMPLES.glob("[0-9]-*.png"))]


class Caller(User):
    """Someone who classifies one image after the other."""

    host = "localhost:8001"

    def on_start(self) -> None:
        self.client = Client(self.host)
        self.images = itertools.cycle(IMAGES)

    def on_stop(self) -> None:
        self.client.close()

    @task
    def classify(self) -> None:
        started, failure = time.perf_counter(), None
        try:
            self.client.classify(next(self.images))
        except TriviumCallError as error:
            failure = error
        ms = (time.perf_counter() - started) * 1e3
        self.environment.events.request.fire(
            request_type="gRPC", name="Classify", response_time=ms, response_length=0, exception=failure, context={}
        )
