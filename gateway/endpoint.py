"""Endpoint: an instance as the balancer sees it: its connection, calls in flight, state and models."""

import contextlib
from collections.abc import Iterator
from typing import Literal

from services.kit.discovery import Instance
from services.kit.transport.upstream import Upstream
from trivium.common.v1 import model_pb2

# "vanished": Consul does not list it any more, and its connection works.
EndpointState = Literal["passing", "warning", "critical", "maintenance", "vanished"]
ACCEPTING: frozenset[EndpointState] = frozenset({"passing", "warning", "vanished"})


class Endpoint:
    """One instance at one address. Everything is read and written in the event loop."""

    __slots__ = (
        "address",
        "any_model",
        "digest",
        "ejected",
        "ejections",
        "failures",
        "gone",
        "id",
        "in_flight",
        "last_resort",
        "models",
        "service",
        "state",
        "streams",
        "upstream",
        "vanished_at",
    )

    def __init__(self, instance: Instance, upstream: Upstream) -> None:
        self.service, self.id, self.address = instance.service, instance.id, instance.address
        self.upstream = upstream
        self.state: EndpointState = instance.state
        self.vanished_at = 0.0  # instant on the fleet's clock, while the state is "vanished"
        self.last_resort = False  # its check fails, and so do all others of its service; fleet.py
        self.gone = False  # the fleet has let it go: its connection is closed when its last call has ended
        self.in_flight = 0  # calls, streams and inquiries
        self.streams = 0  # live ones, which are mostly silent
        self.failures = self.ejections = 0  # in a row; outliers.py
        self.ejected = False
        self.digest: str | None = None  # models_digest of the instance when it was last asked for its models
        self.models: tuple[model_pb2.ModelInfo, ...] | None = None  # None: it has not told yet
        self.any_model = False  # it has no ModelService and answers to any name

    @property
    def accepting(self) -> bool:
        """Whether it may get new calls."""
        return self.state in ACCEPTING or self.last_resort

    @property
    def learned(self) -> bool:
        """Whether it is known what it serves."""
        return self.models is not None or self.any_model

    @contextlib.contextmanager
    def inquired(self) -> Iterator[None]:
        """One more inquiry of the gateway's own in flight, which keeps the connection as a call does."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def __repr__(self) -> str:
        return f"<{self.id} at {self.address}, {self.state}{', ejected' if self.ejected else ''}>"
