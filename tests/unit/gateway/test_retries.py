"""What is retried, and how much."""

import math

import pytest
from google.rpc import code_pb2
from prometheus_client import CollectorRegistry

from gateway.metrics import GatewayMetrics
from gateway.retries import Budget, Retries, rule
from gateway.settings import RetrySettings
from services.kit.deadline import Deadline
from services.kit.errors import (
    DeadlineUnreachable,
    Draining,
    InvalidField,
    LoadIncomplete,
    MalformedRequest,
    ModelNotFound,
    NotReady,
    Overloaded,
    TriviumError,
    UnknownMethod,
)
from services.kit.transport.upstream import CallFailed
from tests.unit.gateway.fakes import Clock, broken, refused

DONE = NotReady("too late", executed="yes")
UNKNOWN = NotReady("who knows", executed="unknown")


@pytest.mark.parametrize(
    ("failure", "unsafe", "safe"),
    [
        (refused(Draining("leaving")), "not_executed", "not_executed"),
        (refused(NotReady("starting")), "not_executed", "not_executed"),
        (refused(ModelNotFound("just unloaded")), "not_executed", "not_executed"),
        (broken(sent=False), "not_sent", "not_sent"),
        (broken(), None, "safe"),
        (broken(code_pb2.CANCELLED), None, "safe"),
        (refused(UNKNOWN), None, "safe"),
        (refused(DONE), None, None),
        (refused(Overloaded("full")), "overloaded", "overloaded"),
        (refused(DeadlineUnreachable("long line")), "overloaded", "overloaded"),
        (broken(code_pb2.RESOURCE_EXHAUSTED), None, None),
        (broken(code_pb2.INTERNAL), None, None),
        (broken(code_pb2.DEADLINE_EXCEEDED), None, None),
        (refused(TriviumError("a bug")), None, None),
        (refused(MalformedRequest("garbage")), None, None),
        (refused(InvalidField("wrong", field="x")), None, None),
        (refused(UnknownMethod("no such")), None, None),
        (refused(LoadIncomplete("some")), None, None),
    ],
    ids=lambda value: str(value) if isinstance(value, CallFailed) else "",
)
def test_the_rules(failure: CallFailed, unsafe: str | None, safe: str | None) -> None:
    assert rule(failure, safe=lambda: False, overloads=0) == unsafe
    assert rule(failure, safe=lambda: True, overloads=0) == safe


def test_a_full_instance_is_left_for_another_once() -> None:
    assert rule(refused(Overloaded("full")), safe=lambda: True, overloads=1) is None


class Calls:
    """A Retries and what `allow` says."""

    def __init__(self, **settings: float) -> None:
        self.clock, self.registry = Clock(), CollectorRegistry()
        chosen = RetrySettings(**settings)  # type: ignore[arg-type]
        self.budget = Budget(chosen, self.clock)
        self.retries = Retries(chosen, self.budget, GatewayMetrics(self.registry))

    def allow(self, *, attempts: int = 1, deadline: Deadline | None = None, alternative: bool = True) -> str | None:
        """For a call whose instance is draining."""
        return self.retries.allow(
            refused(Draining("leaving")),
            deadline or Deadline(),
            attempts=attempts,
            overloads=0,
            safe=lambda: True,
            alternative=lambda: alternative,
        )

    def spend(self) -> int:
        """How many retries there are at once."""
        count = 0
        while self.budget.withdraw():
            count += 1
        return count


def test_attempts_are_limited() -> None:
    calls = Calls(max_attempts=3)
    assert calls.allow(attempts=2) == "not_executed"
    assert calls.allow(attempts=3) is None


def test_nothing_is_retried_after_the_deadline_or_without_another_instance() -> None:
    calls = Calls()
    assert calls.allow(deadline=Deadline(0.0)) is None
    assert calls.allow(alternative=False) is None
    assert calls.allow(deadline=Deadline(math.inf)) == "not_executed"


def test_a_retry_that_the_budget_refuses_is_counted() -> None:
    calls = Calls(budget_min_per_s=0.0)
    assert calls.allow() is None
    assert calls.registry.get_sample_value("trivium_gateway_retry_budget_exhausted_total") == 1
    calls.budget.calls += 5
    assert calls.allow() == "not_executed"
    assert calls.registry.get_sample_value("trivium_gateway_retries_total", {"rule": "not_executed"}) == 1


def test_without_traffic_the_budget_is_a_few_a_second_over_its_window() -> None:
    calls = Calls(budget_min_per_s=10.0, budget_window_s=10.0)
    assert calls.spend() == 100
    calls.clock.now += 1
    assert calls.spend() == 10
    calls.clock.now += 3600
    assert calls.spend() == 100


def test_traffic_earns_its_share() -> None:
    calls = Calls(budget_min_per_s=0.0, budget_ratio=0.2, budget_window_s=10.0)
    calls.budget.calls += 1000
    assert calls.spend() == 200


def test_what_traffic_earned_fades() -> None:
    calls = Calls(budget_min_per_s=0.0, budget_ratio=0.2, budget_window_s=10.0)
    calls.budget.calls += 1000
    assert calls.budget.withdraw()
    calls.clock.now += 10
    assert 60 < calls.spend() < 80  # 1/e of it
    calls.budget.calls += 36_000  # over an hour: what counts are the 100 of the last 10 s
    calls.clock.now += 3600
    assert calls.spend() in (19, 20)
