"""What may be tried again on another instance, and how much of it.

The rules are design decisions: (a) the instance says that it did nothing, (b) the call never left, (c) the method is
safe and the connection ended. Everything stays within a budget and the remaining deadline.
"""

import math
from collections.abc import Callable
from typing import Literal

from google.rpc import code_pb2

from gateway.metrics import GatewayMetrics
from gateway.settings import RetrySettings
from services.kit.deadline import Deadline
from services.kit.errors import error_info, retry_after_s
from services.kit.transport.upstream import CallFailed

Rule = Literal["not_executed", "not_sent", "safe", "overloaded"]
LOST = frozenset({code_pb2.UNAVAILABLE, code_pb2.CANCELLED})  # grpc.aio ends accepted calls with either when it stops


def rule(failure: CallFailed, *, safe: Callable[[], bool], overloads: int) -> Rule | None:
    """The rule by which a failed attempt may be repeated elsewhere; None if it stands.

    Args:
        safe: whether the same call twice is as good as once.
        overloads: attempts of this call that have already been repeated because an instance was full.
    """
    code = failure.status.code
    if code == code_pb2.RESOURCE_EXHAUSTED:
        refused = failure.executed == "no" and retry_after_s(failure.status) is not None
        return "overloaded" if refused and overloads == 0 else None
    if failure.executed == "no" and (code in LOST or model_gone(failure)):
        return "not_executed" if failure.status.details else "not_sent"
    if code in LOST and failure.executed != "yes" and safe():
        return "safe"
    return None  # an answer that every other instance would give, or one that must not be asked for twice


def model_gone(failure: CallFailed) -> bool:
    """The instance has just unloaded what the catalog says that it has."""
    info = error_info(failure.status) if failure.status.code == code_pb2.NOT_FOUND else None
    return info is not None and info.reason == "MODEL_NOT_FOUND"


class Budget:
    """Bounds retries to a share of the recent calls, plus a few a second. Source: Finagle's RetryBudget."""

    def __init__(self, settings: RetrySettings, clock: Callable[[], float]) -> None:
        self._ratio, self._window_s = settings.budget_ratio, settings.budget_window_s
        self._min_per_s, self._clock = settings.budget_min_per_s, clock
        self._reserve = self._min_per_s * self._window_s
        self._earned = 0.0
        self._at = clock()
        self.calls = 0  # since `_at`; the forwarder adds to it with each call

    def withdraw(self) -> bool:
        """Takes one retry out of the budget; False if there is none left."""
        self._settle()
        if self._reserve >= 1:
            self._reserve -= 1
            return True
        if self._earned >= 1:
            self._earned -= 1
            return True
        return False

    def _settle(self) -> None:
        """What was earned fades over the window; of the calls since the last look those in the window count."""
        now = self._clock()
        passed_s, self._at = max(0.0, now - self._at), now
        recent = self.calls * min(1.0, self._window_s / passed_s if passed_s else 1.0)
        self._earned = self._earned * math.exp(-passed_s / self._window_s) + recent * self._ratio
        self._reserve = min(self._reserve + self._min_per_s * passed_s, self._min_per_s * self._window_s)
        self.calls = 0


class Retries:
    """Decides after each failed attempt of a call whether there is another one."""

    def __init__(self, settings: RetrySettings, budget: Budget, metrics: GatewayMetrics) -> None:
        self._settings, self._metrics, self.budget = settings, metrics, budget

    def allow(
        self,
        failure: CallFailed,
        deadline: Deadline,
        *,
        attempts: int,
        overloads: int,
        safe: Callable[[], bool],
        alternative: Callable[[], bool],
    ) -> Rule | None:
        """The rule by which there is another attempt, which is paid for then; None if the failure stands.

        Args:
            attempts: how many there were.
            alternative: whether an endpoint is left that was not tried.
        """
        if attempts >= self._settings.max_attempts or deadline.expired():
            return None
        found = rule(failure, safe=safe, overloads=overloads)
        if found is None or not alternative():
            return None
        if not self.budget.withdraw():
            self._metrics.budget_exhausted.inc()
            return None
        self._metrics.retries.labels(found).inc()
        return found
