"""Continuation: the tries of one stream, text or step of a sequence that goes on where another instance left off."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping

import structlog
from google.rpc import code_pb2

from gateway import balancer
from gateway.attempts import TRAILER, Dispatch
from gateway.endpoint import Endpoint
from gateway.failures import explained
from gateway.resume.suspicion import Suspicion
from gateway.resume.verdict import Verdict, verdict
from gateway.retries import model_gone
from gateway.routes import Pin, Route, Routes
from gateway.settings import ResumeSettings
from services.kit.call import Call, Metadata
from services.kit.errors import NoInstance, NotReady, TriviumError, Unloaded, retry_after_s
from services.kit.transport.upstream import CallFailed

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.05, 1.0
ANSWER_S = 0.1  # before the caller's deadline, so that the caller hears why


class Continuation:
    """Goes on while there is time, from instance to instance; waits where there is none.

    Instances that compute the bundle to the bit as before come first; others are taken where there is none of those.
    It is not bound by the budget for retries: one death with 200 streams is 200 resumes. What bounds it is time, and
    how many instances break with the same request. One that is suspected to be the cause is held back for a while: if
    an instance breaks without it, it goes on; else it has one more attempt.

    Args:
        service: Consul service, or ANY.
        route: finds the endpoints while no bundle is pinned.
        wanted: the model as the caller named it; "" is the service's default.
        pin: the bundle that the state so far belongs to; None while nothing was answered.
        live: it is a stream that lasts long and is mostly silent.
        progress: what the caller has got, for the log.
    """

    def __init__(
        self,
        routes: Routes,
        dispatch: Dispatch,
        settings: ResumeSettings,
        service: str,
        route: Callable[[], Route],
        wanted: Callable[[], str],
        call: Call,
        pin: Pin | None = None,
        live: bool = False,
        progress: Callable[[], Mapping[str, int | None]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._routes, self._dispatch, self._settings = routes, dispatch, settings
        self._service, self._route, self._call, self._clock = service, route, call, clock
        self._wanted, self._live, self._progress = wanted, live, progress
        self._tried: list[Endpoint] = []  # since the last answer
        self._attempts = 0
        self._since: float | None = None  # instant at which the first failure after the last answer was
        self._begun = 0.0  # instant at which the search of now began
        self._again_at = -math.inf  # instant before which nobody is tried again
        self._failures = 0  # in a row
        self._resuming = False  # an instance has failed it, and no other one has it yet
        self._suspicion = Suspicion(dispatch.outliers.breaks, settings.max_attempts)
        self._break: tuple[CallFailed, Endpoint] | None = None  # the last one
        self._held_until = 0.0  # instant until which a suspected request waits
        self._refusal: tuple[CallFailed, Endpoint] | None = None  # for want of a place: the last word of who is there
        self._finished = False
        self._pin = pin
        self._answering: Endpoint | None = None  # the endpoint of the attempt, once it has answered
        dispatch.retries.budget.calls += 1

    async def pick(self) -> Endpoint:
        """The endpoint of the next attempt, with one more call in flight. Waits for one as long as there is time.

        Raises:
            NoInstance: the time is over, or the request breaks its instances.
            CallFailed: it is over, and what is there has no place.
            TriviumError: there is no such model.
        """
        self._call.stage = "route"
        await self._cleared()
        self._begun = self._clock()
        while True:
            changed = self._routes.changed
            endpoints = self._endpoints()
            if not endpoints:
                self._refusal = None
            if chosen := self._choice(endpoints):
                break
            now, limit = self._clock(), self._limit()
            if now >= limit:
                raise self._over()
            until = min(limit, self._again_at) if endpoints else limit
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - now):
                    await changed.wait()
        if self._resuming:
            self._resuming = False
            self._dispatch.metrics.resumes.labels(self._call.method).inc()
        load = balancer.streams if self._live else balancer.calls
        endpoint = balancer.pick(chosen, self._dispatch.rng, load)
        endpoint.in_flight += 1
        endpoint.streams += self._live
        self._attempts, self._answering = self._attempts + 1, None
        self._call.stage, self._call.fields["endpoint"] = "forward", endpoint.id
        return endpoint

    def answered(self, endpoint: Endpoint, pin: Pin) -> Pin:
        """The endpoint answers with the bundle: what comes next is asked of that one, as it is computed there."""
        if self._pin is None or self._answering is not endpoint:
            if self._pin is not None and not self._pin.alike(endpoint):
                self._dispatch.metrics.other_bits.labels(self._call.method).inc()
                structlog.get_logger().warning("other_bits", endpoint=endpoint.id, model=str(pin), **self._progress())
            self._pin, self._answering = pin.computed(endpoint), endpoint
        return self._pin

    def renew(self) -> None:
        """Something was answered, or is asked for the first time: patience begins anew."""
        if self._failures:
            self._tried.clear()
            self._failures, self._refusal = 0, None
            self._suspicion.clear()
            self._begun, self._since = self._clock(), None

    def failed(self, endpoint: Endpoint, failure: CallFailed, *, asked: bool = True) -> None:
        """The attempt failed. Returns if there is another one.

        Args:
            asked: an answer was due; else the request is not to blame.

        Raises:
            Exception: what the caller gets.
        """
        now = self._clock()
        self._dismiss(endpoint, failure.status.code)
        self._dispatch.outliers.failed(endpoint, failure)
        found = verdict(failure)
        self._tried.append(endpoint)
        if asked and found == "broken":
            self._suspicion.broke(endpoint)
            self._break, self._held_until = (failure, endpoint), now + self._settings.doubt_s
        elif asked and found == "fault":
            self._suspicion.failed()
        if not self._goes_on(found):
            self._finish(failure.trailers)
            raise self._final(failure, endpoint) from None
        if not self._failures or found in ("broken", "fault"):
            self._resuming = True
            structlog.get_logger().info("resuming", endpoint=endpoint.id, error=str(failure), **self._progress())
        full = found in ("refused", "late") and not model_gone(failure)
        self._refusal = (failure, endpoint) if full else None
        self._since = now if self._since is None else self._since
        backoff_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._failures, 16))
        jittered_s = backoff_s * (0.5 + self._dispatch.rng.random() / 2)  # the streams of one instance spread out
        self._again_at = now + max(jittered_s, retry_after_s(failure.status) or 0.0 if found == "refused" else 0.0)
        self._failures += 1

    def succeeded(self, endpoint: Endpoint, trailers: Metadata) -> None:
        """Everything was answered."""
        self._dismiss(endpoint, code_pb2.OK)
        self._dispatch.outliers.succeeded(endpoint)
        self._finish(trailers)

    def enough(self, endpoint: Endpoint, failure: CallFailed) -> None:
        """The attempt failed after everything was answered."""
        self._dismiss(endpoint, failure.status.code)
        self._dispatch.outliers.failed(endpoint, failure)
        self._finish(failure.trailers)

    def left(self, endpoint: Endpoint | None) -> None:
        """Nobody waits any more: neither for the attempt at `endpoint`, nor for another one."""
        if endpoint is not None:
            self._dismiss(endpoint, code_pb2.CANCELLED)
        self._finish(())

    async def _cleared(self) -> None:
        """Waits while the request is held back.

        Raises:
            Exception: no instance broke without it in that time, for the second time.
        """
        while self._suspicion.grave and self._break is not None:
            another = self._dispatch.outliers.breaks.another
            left_s = max(0.0, min(self._held_until, self._limit()) - self._clock())
            structlog.get_logger().warning("held_back", method=self._call.method, for_s=left_s, **self._progress())
            try:
                async with asyncio.timeout(left_s):
                    await another.wait()
            except TimeoutError:
                if not self._suspicion.reprieved and self._clock() < self._limit():
                    self._suspicion.reprieve()
                    continue
                failure, endpoint = self._break
                self._finish(failure.trailers)
                raise self._final(failure, endpoint) from None

    def _dismiss(self, endpoint: Endpoint, code: int) -> None:
        endpoint.in_flight -= 1
        endpoint.streams -= self._live
        self._dispatch.count(endpoint.service, code)

    def _endpoints(self) -> tuple[Endpoint, ...]:
        try:
            route = self._routes.pinned(self._service, self._pin) if self._pin else self._route()
        except (NoInstance, NotReady) as error:
            begun = self._pin is not None or self._failures
            if not self._settings.enabled or (isinstance(error, Unloaded) and not begun):
                raise
            return ()
        return route.endpoints

    def _choice(self, endpoints: tuple[Endpoint, ...]) -> list[Endpoint]:
        """Those of the endpoints that may be tried now."""
        healthy = [endpoint for endpoint in endpoints if not endpoint.ejected]
        fresh = [endpoint for endpoint in healthy if endpoint not in self._tried]
        if fresh or self._clock() < self._again_at:
            return self._alike(fresh)
        self._tried.clear()
        return self._alike(healthy or list(endpoints))  # an attempt that may fail is better than none

    def _alike(self, endpoints: list[Endpoint]) -> list[Endpoint]:
        """Those that compute the bundle as before; all of them where there is none."""
        pin = self._pin
        return endpoints if pin is None else [found for found in endpoints if pin.alike(found)] or endpoints

    def _goes_on(self, found: Verdict) -> bool:
        if not self._settings.enabled or found == "final":
            return False
        if self._suspicion.grave and (found == "fault" or self._suspicion.final or not self._settings.doubt_s):
            return False
        # What has not begun is refused rather than kept waiting for a place.
        return self._others() if found in ("fault", "late") or (found == "refused" and self._pin is None) else True

    def _others(self) -> bool:
        """Whether an instance is there that was not tried since the last answer."""
        try:
            return any(not e.ejected and e not in self._tried for e in self._endpoints())
        except TriviumError:
            return False

    def _final(self, failure: CallFailed, endpoint: Endpoint) -> Exception:
        """What the caller gets for a failure that stands."""
        name = self._wanted()
        if name and model_gone(failure) and not endpoint.any_model:  # the catalog has seen it there
            return NoInstance(f"model {name!r} has no instance at the moment", model=name)
        return explained(failure, endpoint)

    def _limit(self) -> float:
        """The instant at which the search is over."""
        since = self._begun if self._since is None else self._since
        return min(since + self._settings.timeout_s, self._call.deadline.at - ANSWER_S)

    def _over(self) -> Exception:
        """What the caller gets when the time is over."""
        if self._refusal is not None:
            failure, endpoint = self._refusal
            self._finish(failure.trailers)
            return explained(failure, endpoint)
        self._finish(())
        what = "has no instance" if self._pin is None and not self._failures else "cannot go on"
        if name := str(self._pin or self._wanted()):
            return NoInstance(f"model {name!r} {what}: none was found in time", model=name)
        return NoInstance(f"service {self._service!r} {what}: no instance was found in time", service=self._service)

    def _finish(self, trailers: Metadata) -> None:
        """Tells the caller's trailers; the first time counts."""
        if self._finished:
            return
        self._finished = True
        if self._attempts > 1:
            self._call.fields["attempts"] = self._attempts
        self._call.trailers.extend(pair for pair in trailers if not pair[0].startswith("grpc-"))
        self._call.trailers.append((TRAILER, str(self._attempts)))
