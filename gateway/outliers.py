"""Ejects endpoints that keep failing, and lets them back in when a health check says so.

Source: Envoy's outlier detection; here an ejection ends with a probe, not with a timer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Literal

import structlog
from google.rpc import code_pb2

from gateway.breaks import Breaks
from gateway.endpoint import Endpoint
from gateway.metrics import GatewayMetrics
from gateway.retries import LOST
from gateway.settings import OutlierSettings
from services.kit.background import until_done
from services.kit.errors import error_info
from services.kit.transport.upstream import CallFailed

Cause = Literal["connection", "leaving", "fault"]
FAULTS = frozenset({code_pb2.INTERNAL, code_pb2.UNKNOWN, code_pb2.DATA_LOSS})
LEAVING = frozenset({"DRAINING", "NOT_READY"})

Probe = Callable[[Endpoint], Awaitable[bool]]
Sleep = Callable[[float], Awaitable[None]]


def cause(failure: CallFailed) -> Cause | None:
    """What a failed attempt says about the endpoint; None where it is the call's own affair."""
    code = failure.status.code
    if code in LOST:
        info = error_info(failure.status)
        if info is None:  # a call that was cut off is no word about the connection: it fails by itself if it is gone
            return "connection" if code == code_pb2.UNAVAILABLE else None
        # Later than at the door it is one model that is unloaded or has failed, and not the instance.
        return "leaving" if info.reason in LEAVING and info.metadata.get("stage") == "admission" else None
    return "fault" if code in FAULTS else None


def backoff_s(probes: int, settings: OutlierSettings) -> float:
    """Seconds before the next probe, after so many that failed: doubling, up to the limit."""
    return min(settings.max_backoff_s, settings.backoff_s * 2.0 ** min(probes, 32))


class Outliers:
    """Watches the outcome of every attempt.

    Args:
        probe: a real health check of an endpoint.
        peers: how many other endpoints of its service take calls.
    """

    def __init__(
        self,
        settings: OutlierSettings,
        metrics: GatewayMetrics,
        probe: Probe,
        peers: Callable[[Endpoint], int],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._settings, self._metrics, self._sleep = settings, metrics, sleep
        self._probe, self._peers = probe, peers
        self._probing: dict[Endpoint, asyncio.Task[None]] = {}
        self.breaks = Breaks()
        self._log = structlog.get_logger()

    def succeeded(self, endpoint: Endpoint) -> None:
        """A call to it was answered."""
        if endpoint.failures or endpoint.ejections:
            endpoint.failures = endpoint.ejections = 0

    def failed(self, endpoint: Endpoint, failure: CallFailed) -> None:
        """A call to it failed: ejects it at once if the connection did, and after some faults in a row."""
        found = cause(failure)
        if found is None or endpoint.ejected or endpoint.gone:
            return
        endpoint.failures += 1
        if found == "fault" and (endpoint.failures < self._settings.failures or not self._peers(endpoint)):
            return  # the last one that answers is never ejected for what it answers
        self._eject(endpoint, found, failure)

    def forget(self, endpoint: Endpoint) -> None:
        """The endpoint is let go."""
        if task := self._probing.pop(endpoint, None):
            task.cancel()
            self._metrics.ejected.labels(endpoint.service).dec()

    def tasks(self) -> Iterator["asyncio.Task[None]"]:
        """The probes under way."""
        return iter(list(self._probing.values()))

    def _eject(self, endpoint: Endpoint, found: Cause, failure: CallFailed) -> None:
        if found == "connection":
            self.breaks.note(endpoint)
        endpoint.ejected = True
        endpoint.ejections += 1
        self._metrics.ejections.labels(endpoint.service, found).inc()
        self._metrics.ejected.labels(endpoint.service).inc()
        self._log.warning("ejected", endpoint=endpoint.id, address=endpoint.address, cause=found, error=str(failure))
        self._probing[endpoint] = asyncio.create_task(self._readmit(endpoint), name=f"probe {endpoint.id}")

    async def _readmit(self, endpoint: Endpoint) -> None:
        await until_done(f"probe {endpoint.id}", partial(self._recovered, endpoint))
        endpoint.ejected, endpoint.failures = False, 0
        del self._probing[endpoint]
        self._metrics.ejected.labels(endpoint.service).dec()

    async def _recovered(self, endpoint: Endpoint) -> None:
        """Returns when a probe has found it healthy."""
        probes = endpoint.ejections - 1
        while True:
            await self._sleep(backoff_s(probes, self._settings))
            probes += 1
            if await self._probe(endpoint):
                self._log.info("readmitted", endpoint=endpoint.id, address=endpoint.address, probes=probes)
                return
