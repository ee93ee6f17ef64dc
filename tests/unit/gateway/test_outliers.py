"""Endpoints are ejected for what they do, and come back by a health check."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.rpc import code_pb2
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from gateway.endpoint import Endpoint
from gateway.metrics import GatewayMetrics
from gateway.outliers import Outliers, backoff_s, cause
from gateway.settings import OutlierSettings
from services.kit.errors import DeadlineExpired, Draining, InvalidField, NoInstance, NotReady, Overloaded, TriviumError
from tests.unit.gateway.fakes import broken, endpoint, refused

SETTINGS = OutlierSettings(failures=3, backoff_s=0.5, max_backoff_s=4.0)


class Ward:
    """Outliers whose sleep ends when the test says so, and whose probe answers what the test says."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.healthy, self.peers = False, 1
        self.slept: list[float] = []
        self._turns: asyncio.Queue[None] = asyncio.Queue()
        self.outliers = Outliers(
            SETTINGS, GatewayMetrics(self.registry), self._probe, lambda endpoint: self.peers, self._sleep
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self._turns.get()

    async def _probe(self, endpoint: Endpoint) -> bool:
        return self.healthy

    async def turn(self) -> None:
        """The time of one back-off passes."""
        self._turns.put_nowait(None)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def ward() -> AsyncIterator[Ward]:
    made = Ward()
    yield made
    for task in made.outliers.tasks():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (broken(), "connection"),
        (broken(sent=False), "connection"),
        (broken(code_pb2.CANCELLED), None),  # cut off by the transport, whose connection may be well
        (refused(Draining("leaving", stage="admission")), "leaving"),
        (refused(NotReady("starting", stage="admission")), "leaving"),
        (refused(Draining("this model is being unloaded", stage="queue")), None),
        (refused(NotReady("the engine of this model has failed", stage="queue")), None),
        (refused(TriviumError("a bug")), "fault"),
        (broken(code_pb2.UNKNOWN), "fault"),
        (refused(NoInstance("elsewhere")), None),
        (refused(Overloaded("full")), None),
        (refused(InvalidField("wrong", field="x")), None),
        (refused(DeadlineExpired("late")), None),
        (broken(code_pb2.DEADLINE_EXCEEDED), None),
    ],
)
def test_what_a_failure_says_about_the_endpoint(failure: object, expected: str | None) -> None:
    assert cause(failure) == expected  # type: ignore[arg-type]


def test_the_back_off_doubles_up_to_its_limit() -> None:
    assert [backoff_s(probes, SETTINGS) for probes in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert backoff_s(10_000, SETTINGS) == 4.0


async def test_a_failed_connection_ejects_at_once_even_the_last_one(ward: Ward) -> None:
    ward.peers, one = 0, endpoint()
    ward.outliers.failed(one, broken())
    assert one.ejected
    assert (
        ward.registry.get_sample_value(
            "trivium_gateway_ejections_total", {"service": one.service, "cause": "connection"}
        )
        == 1
    )


async def test_faults_eject_when_there_are_some_in_a_row(ward: Ward) -> None:
    one = endpoint()
    for _ in range(2):
        ward.outliers.failed(one, refused(TriviumError("a bug")))
    ward.outliers.succeeded(one)
    for _ in range(2):
        ward.outliers.failed(one, refused(TriviumError("a bug")))
    assert not one.ejected
    ward.outliers.failed(one, refused(TriviumError("a bug")))
    assert one.ejected


async def test_the_last_endpoint_is_never_ejected_for_faults(ward: Ward) -> None:
    ward.peers, one = 0, endpoint()
    for _ in range(20):
        ward.outliers.failed(one, refused(TriviumError("a bug")))
    assert not one.ejected


async def test_only_a_health_check_lets_it_back_in(ward: Ward) -> None:
    one = endpoint()
    ward.outliers.failed(one, broken())
    await ward.turn()
    await ward.turn()
    assert (one.ejected, ward.slept) == (True, [0.5, 1.0, 2.0])
    ward.healthy = True
    await ward.turn()
    assert not one.ejected
    assert not list(ward.outliers.tasks())


async def test_one_that_fails_again_without_a_success_waits_longer(ward: Ward) -> None:
    one, ward.healthy = endpoint(), True
    ward.outliers.failed(one, broken())
    await ward.turn()
    ward.outliers.failed(one, broken())
    await ward.turn()
    ward.outliers.succeeded(one)
    ward.outliers.failed(one, broken())
    await asyncio.sleep(0)
    assert ward.slept == [0.5, 1.0, 0.5]


async def test_one_that_is_let_go_is_not_probed_any_more(ward: Ward) -> None:
    one = endpoint()
    ward.outliers.failed(one, broken())
    ward.outliers.forget(one)
    assert not list(ward.outliers.tasks())
    assert ward.registry.get_sample_value("trivium_gateway_ejected_endpoints", {"service": one.service}) == 0


async def test_the_calls_of_one_that_is_let_go_eject_nobody(ward: Ward) -> None:
    one = endpoint()
    one.gone = True
    ward.outliers.failed(one, broken())
    assert not one.ejected
    assert not list(ward.outliers.tasks())


async def test_a_probe_that_goes_wrong_is_not_the_last_one(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    one, ward.healthy = endpoint(), True
    left = [ZeroDivisionError("odd")]

    async def probe(endpoint: Endpoint) -> bool:
        while left:
            raise left.pop()
        return True

    monkeypatch.setattr(ward.outliers, "_probe", probe)
    ward.outliers.failed(one, broken())
    with capture_logs() as logs:
        await ward.turn()
        await ward.turn()
    assert not one.ejected
    assert [entry["event"] for entry in logs] == ["background_work_failed", "readmitted"]
