"""What Consul says becomes endpoints, and what it stops saying does not end what works."""

import asyncio

import pytest
from google.rpc import code_pb2, status_pb2
from structlog.testing import capture_logs

from gateway.addressing import MODEL_SERVICE
from gateway.settings import CatalogSettings
from services.kit.errors import NoInstance
from services.kit.transport.upstream import CallFailed, Reply
from tests.unit.gateway.fakes import VISION, FakeUpstream, Gateway, instance, model

GRACE_S = CatalogSettings().grace_s


async def started(*names: str) -> Gateway:
    """A gateway that knows these instances and what they serve."""
    gateway = Gateway([])
    gateway.fleet.changed(VISION, [instance(name) for name in names])
    gateway.fleet.answered()
    await gateway.settle()
    return gateway


def taking(gateway: Gateway) -> list[str]:
    """Names of the instances that the default model's calls may go to."""
    try:
        return sorted(found.id for found in gateway.routes.typed(VISION, "").endpoints)
    except NoInstance:
        return []


async def test_an_instance_takes_calls_when_it_has_told_its_models() -> None:
    gateway = Gateway([])
    gateway.fleet.changed(VISION, [instance("a")])
    gateway.fleet.answered()
    assert gateway.routes.endpoints(VISION) == []
    await gateway.settle()
    assert taking(gateway) == ["a"]


async def test_a_changed_digest_is_asked_for_and_an_unchanged_one_is_not() -> None:
    gateway = await started("a")
    gateway.made["a:1"].models = (model("new"),)
    gateway.fleet.changed(VISION, [instance("a")])
    await gateway.settle()
    assert gateway.routes.typed(VISION, "digits").endpoints
    gateway.fleet.changed(VISION, [instance("a", digest="b")])
    await gateway.settle()
    assert gateway.routes.typed(VISION, "new").endpoints


async def test_when_every_check_of_a_service_fails_those_that_are_connected_go_on() -> None:
    gateway = await started("a", "b", "c")
    gateway.made["b:1"].up = False
    gateway.fleet.changed(VISION, [instance("a", "critical"), instance("b", "critical"), instance("c", "maintenance")])
    assert taking(gateway) == ["a"]
    gateway.made["a:1"].up = False
    gateway.fleet.sweep()
    assert taking(gateway) == []
    gateway.made["a:1"].up = gateway.made["b:1"].up = True
    gateway.fleet.sweep()
    assert taking(gateway) == ["a", "b"]
    gateway.fleet.changed(VISION, [instance("a", "critical"), instance("b")])
    assert taking(gateway) == ["b"]


async def test_a_last_resort_goes_on_until_the_one_that_replaces_it_has_told_its_models() -> None:
    gateway = await started("a")
    gateway.fleet.changed(VISION, [instance("a", "critical"), instance("new")])
    assert taking(gateway) == ["a"]
    await gateway.settle()
    assert taking(gateway) == ["new"]


@pytest.mark.parametrize("state", ["maintenance", "critical"])
async def test_maintenance_and_failing_checks_count_at_once_and_end_no_call(state: str) -> None:
    gateway = await started("a", "b")
    gateway.fleet.changed(VISION, [instance("a", state), instance("b")])  # type: ignore[arg-type]
    assert taking(gateway) == ["b"]
    gateway.fleet.sweep()
    assert not gateway.made["a:1"].closed
    gateway.fleet.changed(VISION, [instance("a"), instance("b")])
    assert taking(gateway) == ["a", "b"]


async def test_an_instance_that_consul_loses_is_kept_while_its_connection_works() -> None:
    gateway = await started("a", "b")
    gateway.fleet.changed(VISION, [instance("b")])
    assert taking(gateway) == ["a", "b"]
    gateway.made["a:1"].up = False
    gateway.fleet.sweep()
    assert taking(gateway) == ["b"]


async def test_a_service_that_consul_loses_altogether_is_kept_for_the_grace_period() -> None:
    gateway = await started("a", "b")
    gateway.fleet.changed(VISION, [])
    gateway.clock.now += GRACE_S - 1
    gateway.fleet.changed(VISION, [])
    gateway.fleet.sweep()
    assert taking(gateway) == ["a", "b"]
    assert gateway.registry.get_sample_value("trivium_gateway_kept_endpoints_total", {"service": VISION}) == 2
    gateway.clock.now += 2
    gateway.fleet.sweep()
    assert taking(gateway) == []


async def test_a_lost_instance_that_comes_back_is_the_same_one() -> None:
    gateway = await started("a")
    before = gateway.fleet.endpoints()
    gateway.fleet.changed(VISION, [])
    gateway.fleet.changed(VISION, [instance("a")])
    gateway.clock.now += 2 * GRACE_S
    gateway.fleet.sweep()
    assert gateway.fleet.endpoints() == before


async def test_an_instance_that_leaves_consul_out_of_maintenance_is_let_go() -> None:
    gateway = await started("a", "b")
    gateway.fleet.changed(VISION, [instance("a", "maintenance"), instance("b")])
    gateway.fleet.changed(VISION, [instance("b")])
    gateway.fleet.sweep()
    await asyncio.sleep(0)
    assert gateway.made["a:1"].closed


async def test_a_restarted_instance_replaces_its_older_self() -> None:
    gateway = await started("a")
    gateway.fleet.changed(VISION, [instance("a", address="a:2")])
    await gateway.settle()
    assert [found.address for found in gateway.fleet.endpoints()] == ["a:2"]


async def test_another_process_at_the_same_address_is_another_endpoint() -> None:
    gateway = await started("a")
    gateway.made.clear()
    gateway.fleet.changed(VISION, [instance("b", address="a:1")])
    await gateway.settle()
    assert taking(gateway) == ["b"]


async def test_a_connection_is_closed_when_its_last_call_has_ended() -> None:
    gateway = await started("a")
    (endpoint,) = gateway.fleet.endpoints()
    endpoint.in_flight = 1
    gateway.fleet.changed(VISION, [instance("a", "maintenance")])
    gateway.fleet.changed(VISION, [])
    gateway.fleet.sweep()
    await asyncio.sleep(0)
    assert not gateway.made["a:1"].closed
    endpoint.in_flight = 0
    gateway.fleet.sweep()
    await asyncio.sleep(0)
    assert gateway.made["a:1"].closed


async def test_one_instance_at_two_agents_is_one_endpoint_and_maintenance_wins() -> None:
    gateway = await started("a", "b")
    gateway.fleet.changed(
        VISION, [instance("a", "maintenance"), instance("a"), instance("b", "critical"), instance("b")]
    )
    assert taking(gateway) == ["b"]
    assert len(gateway.fleet.endpoints()) == 1


async def test_an_instance_without_model_service_serves_its_own_package(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: FakeUpstream, path: str, *rest: object) -> Reply:
        assert path == f"{MODEL_SERVICE}ListModels"
        raise CallFailed(status_pb2.Status(code=code_pb2.UNIMPLEMENTED), (), "no")

    monkeypatch.setattr(FakeUpstream, "unary", refuse)
    gateway = await started("a")
    assert [found.any_model for found in gateway.routes.typed(VISION, "anything").endpoints] == [True]


async def test_an_instance_is_asked_again_after_an_answer_that_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [ZeroDivisionError("odd")]

    def odd() -> None:
        while left:
            raise left.pop()

    gateway = Gateway([])
    gateway._connect("a:1").on_list = odd
    with capture_logs() as logs:
        gateway.fleet.changed(VISION, [instance("a")])
        gateway.fleet.answered()
        await gateway.settle()
    assert taking(gateway) == ["a"]
    assert [entry["work"] for entry in logs if entry["log_level"] == "error"] == ["learn a"]


async def test_descriptors_that_nobody_can_read_stop_no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def odd(*rest: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gateway.inquiry.descriptors", odd)
    with capture_logs() as logs:
        gateway = await started("a")
    assert taking(gateway) == ["a"]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["reflection_failed"]
    assert [endpoint.in_flight for endpoint in gateway.fleet.endpoints()] == [0]
