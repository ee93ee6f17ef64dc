"""Attempts: the tries of one call, from the first pick to the answer that stands."""

from collections.abc import Callable
from random import Random

from google.rpc import code_pb2

from gateway import balancer
from gateway.endpoint import Endpoint
from gateway.failures import explained
from gateway.metrics import GatewayMetrics
from gateway.outliers import Outliers
from gateway.retries import Retries
from gateway.routes import Route
from services.kit.call import Call, Metadata
from services.kit.errors import TriviumError
from services.kit.transport.upstream import CallFailed

TRAILER = "trivium-attempts"


class Dispatch:
    """What all calls share: retries and their budget, outliers, randomness, counters."""

    def __init__(self, retries: Retries, outliers: Outliers, metrics: GatewayMetrics, rng: Random) -> None:
        self.retries, self.outliers, self.metrics, self.rng = retries, outliers, metrics, rng
        self._attempts: dict[tuple[str, int], Callable[[], None]] = {}

    def count(self, service: str, code: int) -> None:
        """One attempt at an instance of the service ended."""
        increment = self._attempts.get((service, code))
        if increment is None:
            increment = self.metrics.attempts.labels(service, code_pb2.Code.Name(code)).inc
            self._attempts[service, code] = increment
        increment()


class Attempts:
    """One call's.

    Args:
        route: finds the endpoints anew for each attempt, since they may have changed.
        safe: whether the same call twice is as good as once.
    """

    __slots__ = ("_call", "_dispatch", "_overloads", "_route", "_safe", "_tried")

    def __init__(self, dispatch: Dispatch, route: Callable[[], Route], call: Call, safe: Callable[[], bool]) -> None:
        self._dispatch, self._route, self._call, self._safe = dispatch, route, call, safe
        self._tried: list[Endpoint] = []
        self._overloads = 0
        dispatch.retries.budget.calls += 1

    def pick(self) -> Endpoint:
        """The endpoint of the next attempt, with one more call in flight.

        Raises:
            TriviumError: there is no route.
        """
        dispatch, call = self._dispatch, self._call
        call.stage = "route"
        endpoint = balancer.pick(balancer.candidates(self._route().endpoints, self._tried), dispatch.rng)
        self._tried.append(endpoint)
        endpoint.in_flight += 1
        call.stage, call.fields["endpoint"] = "forward", endpoint.id
        return endpoint

    def succeeded(self, endpoint: Endpoint, trailers: Metadata) -> None:
        """The attempt was answered: this is the answer."""
        endpoint.in_flight -= 1
        self._dispatch.outliers.succeeded(endpoint)
        self._dispatch.count(endpoint.service, code_pb2.OK)
        self._finish(trailers)

    def failed(self, endpoint: Endpoint, failure: CallFailed, *, final: bool = False) -> None:
        """The attempt failed. Returns if there is another one.

        Args:
            final: part of the call has gone out or come back already: it cannot be repeated.

        Raises:
            Exception: what the caller gets.
        """
        endpoint.in_flight -= 1
        self._dispatch.outliers.failed(endpoint, failure)
        self._dispatch.count(endpoint.service, failure.status.code)
        if not final:
            rule = self._dispatch.retries.allow(
                failure,
                self._call.deadline,
                attempts=len(self._tried),
                overloads=self._overloads,
                safe=self._safe,
                alternative=self._alternative,
            )
            self._overloads += rule == "overloaded"
            if rule is not None:
                return
        self._finish(failure.trailers)
        raise explained(failure, endpoint) from None

    def left(self, endpoint: Endpoint) -> None:
        """The caller does not wait for the attempt any more."""
        endpoint.in_flight -= 1
        self._dispatch.count(endpoint.service, code_pb2.CANCELLED)
        self._finish(())  # a caller whose deadline passed here does hear the end

    def _alternative(self) -> bool:
        try:
            return bool(balancer.candidates(self._route().endpoints, self._tried))
        except TriviumError:
            return False

    def _finish(self, trailers: Metadata) -> None:
        added, attempts = self._call.trailers, len(self._tried)
        if attempts > 1:
            self._call.fields["attempts"] = attempts
        added.extend(pair for pair in trailers if not pair[0].startswith("grpc-"))
        added.append((TRAILER, str(attempts)))
