"""The gateway's own answers speak for all instances."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from google.rpc import code_pb2
from structlog.testing import capture_logs

from gateway.catalog import Catalog, judge, merged
from gateway.model_service import ModelServicer
from gateway.oip import OipServicer
from gateway.settings import CatalogSettings
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import (
    InvalidField,
    LoadIncomplete,
    ModelNotFound,
    NoInstance,
    NotReady,
    TriviumError,
    UnknownMethod,
    UpstreamError,
)
from tests.unit.gateway.fakes import VISION, FakeUpstream, Gateway, broken, endpoint, instance, model, refused
from trivium.models.v1 import models_pb2

NOT_THERE = refused(ModelNotFound("no such bundle here"))
FAILED = refused(TriviumError("checksum is off"))
CALL = Call("test", Deadline())
Prepare = Callable[[FakeUpstream], None]


async def catalog(**upstreams: Prepare) -> tuple[Catalog, Gateway]:
    """Over instances that are prepared before they are asked for their models."""
    gateway = Gateway([])
    for name, prepare in upstreams.items():
        prepare(gateway._connect(f"{name}:1"))
    gateway.fleet.changed(VISION, [instance(name) for name in upstreams])
    gateway.fleet.answered()
    await gateway.settle()
    return Catalog(gateway.fleet, CatalogSettings()), gateway


def plain(upstream: FakeUpstream) -> None:
    """Serves the ready model "digits" and does what it is told."""


def counting(requests: int) -> Prepare:
    """Has answered so many requests."""

    def prepare(upstream: FakeUpstream) -> None:
        made = oip.ModelStatistics(name="digits", version="1", inference_count=requests)
        upstream.answer = lambda path, request: oip.ModelStatisticsResponse(model_stats=[made]).SerializeToString()

    return prepare


def test_each_version_is_listed_once_and_a_ready_entry_wins() -> None:
    found = merged(
        [
            [model("b", 2, ready=False), model("a", 10, labels=("x",))],
            [model("b", 2, labels=("stable",)), model("a", 9), model("a", 10, labels=("y",))],
        ]
    )
    assert [(one.name, one.version, one.state, list(one.labels)) for one in found] == [
        ("a", 9, 1, []),
        ("a", 10, 1, ["x", "y"]),
        ("b", 2, 1, ["stable"]),
    ]


def test_merging_changes_no_instances_own_entry() -> None:
    one, other = model(labels=("x",)), model(labels=("y",))
    merged([[one], [other]])
    assert (list(one.labels), list(other.labels)) == (["x"], ["y"])


async def test_before_discovery_has_answered_there_is_no_list() -> None:
    gateway = Gateway([])
    with pytest.raises(NotReady):
        Catalog(gateway.fleet, CatalogSettings()).models()


async def test_models_are_listed_by_name() -> None:
    servicer = ModelServicer((await catalog(a=plain))[0])
    assert len((await servicer.list_models(models_pb2.ListModelsRequest(model="digits"), CALL)).models) == 1
    assert not (await servicer.list_models(models_pb2.ListModelsRequest(model="nope"), CALL)).models


A, B, OTHER = endpoint("a"), endpoint("b"), endpoint("c", service="trivium-sequence-v1")


def test_success_is_what_every_instance_of_the_service_did() -> None:
    judge([(A, None), (B, None), (OTHER, NOT_THERE)], "m")


def test_a_partial_failure_names_the_instances() -> None:
    with pytest.raises(LoadIncomplete, match="b: checksum is off") as raised:
        judge([(A, None), (B, FAILED)], "m")
    assert raised.value.metadata["instances"] == "b"
    with pytest.raises(LoadIncomplete):
        judge([(A, None), (B, NOT_THERE)], "m")


def test_to_unload_what_one_instance_does_not_have_is_no_failure() -> None:
    judge([(A, None), (B, NOT_THERE)], "m", unload=True)


def test_nothing_is_found_only_if_nobody_finds_it() -> None:
    with pytest.raises(UpstreamError) as raised:
        judge([(A, NOT_THERE), (OTHER, NOT_THERE)], "m", unload=True)
    assert raised.value.status.code == code_pb2.NOT_FOUND


def test_what_fails_everywhere_for_one_reason_fails_for_it() -> None:
    with pytest.raises(UpstreamError, match="checksum"):
        judge([(A, FAILED), (B, FAILED)], "m")
    with pytest.raises(NoInstance, match="connection to a failed"):
        judge([(A, broken())], "m")


async def test_a_load_goes_to_every_instance_and_the_caller_finds_it_done() -> None:
    def loading(upstream: FakeUpstream) -> None:
        def answer(path: str, request: bytes) -> bytes:
            upstream.models = (model("extra"),)
            return b""

        upstream.models, upstream.answer = (model("extra", ready=False),), answer

    found, gateway = await catalog(a=loading, b=loading)
    response = await ModelServicer(found).load_model(models_pb2.LoadModelRequest(model="extra"), CALL)
    assert [one.name for one in response.models] == ["extra"]
    assert [len(upstream.seen) for upstream in gateway.made.values()] == [1, 1]
    assert len(gateway.routes.named("extra", "").endpoints) == 2


async def test_a_load_is_answered_even_if_consul_reports_the_new_digest_meanwhile() -> None:
    def loading(upstream: FakeUpstream) -> None:
        upstream.answer = lambda path, request: b""

    found, gateway = await catalog(a=loading)

    def report() -> None:
        gateway.made["a:1"].on_list = lambda: None
        gateway.fleet.changed(VISION, [instance("a", digest="new")])

    gateway.made["a:1"].on_list = report
    response = await ModelServicer(found).load_model(models_pb2.LoadModelRequest(model="digits"), CALL)
    assert [one.name for one in response.models] == ["digits"]


@pytest.mark.parametrize("name", ["", "../secret", "a/b", "digits:1", "digits@x", "UPPER", "a" * 64])
async def test_only_bundle_names_are_loaded(name: str) -> None:
    found, gateway = await catalog(a=plain)
    with pytest.raises(InvalidField):
        await ModelServicer(found).load_model(models_pb2.LoadModelRequest(model=name), CALL)
    with pytest.raises(InvalidField):
        await OipServicer(found).repository_model_unload(oip.RepositoryModelUnloadRequest(model_name=name), CALL)
    assert not gateway.made["a:1"].seen


async def test_without_instances_nothing_can_be_loaded() -> None:
    with pytest.raises(NoInstance):
        await ModelServicer((await catalog())[0]).load_model(models_pb2.LoadModelRequest(model="m"), CALL)


@pytest.mark.parametrize("moved", [False, True])
async def test_a_load_where_the_service_of_the_model_has_no_instance_says_so(moved: bool) -> None:
    def load(path: str, request: bytes) -> bytes:
        if not moved:
            raise NOT_THERE
        other.models = (model(),)
        return b""

    found, gateway = await catalog(a=plain)
    other = gateway._connect("b:1")
    other.models, other.answer = (model("chirps"),), load
    gateway.fleet.changed("trivium-audio-v1", [dataclasses.replace(instance("b"), service="trivium-audio-v1")])
    await gateway.settle()
    gateway.fleet.changed(VISION, [instance("a", "maintenance")])
    request, says = models_pb2.LoadModelRequest(model="digits"), f"model 'digits' is one of {VISION}, which has no inst"
    with contextlib.nullcontext() if moved else pytest.raises(NoInstance, match=says):
        response = await ModelServicer(found).load_model(request, CALL)
        assert [one.name for one in response.models] == ["digits"]


async def test_health_names_every_model_that_was_ever_ready() -> None:
    found, gateway = await catalog(a=plain)
    assert found.health() == {"model/digits": True, "model/digits/1": True}
    gateway.fleet.changed(VISION, [instance("a", "maintenance")])
    assert found.health() == {"model/digits": False, "model/digits/1": False}


async def test_a_model_is_ready_where_any_instance_has_it_ready() -> None:
    def unloaded(upstream: FakeUpstream) -> None:
        upstream.models = (model(ready=False), model(version=2, ready=False))

    servicer = OipServicer((await catalog(a=unloaded, b=plain))[0])

    async def ready(version: str) -> bool:
        return (await servicer.model_ready(oip.ModelReadyRequest(name="digits", version=version), CALL)).ready

    assert [await ready(version) for version in ("", "1", "2", "3")] == [True, True, False, False]
    with pytest.raises(InvalidField):
        await ready("x")


async def test_the_gateway_is_ready_while_an_instance_is() -> None:
    found, gateway = await catalog(a=plain)
    servicer = OipServicer(found)
    assert (await servicer.server_ready(oip.ServerReadyRequest(), CALL)).ready
    gateway.fleet.changed(VISION, [instance("a", "critical")])  # the last one, busy perhaps, whose connection works
    assert (await servicer.server_ready(oip.ServerReadyRequest(), CALL)).ready
    gateway.made["a:1"].up = False
    gateway.fleet.sweep()
    assert not (await servicer.server_ready(oip.ServerReadyRequest(), CALL)).ready
    gateway.made["a:1"].up = True
    gateway.fleet.changed(VISION, [instance("a", "maintenance")])
    assert not (await servicer.server_ready(oip.ServerReadyRequest(), CALL)).ready
    assert (await servicer.server_live(oip.ServerLiveRequest(), CALL)).live


async def test_the_index_names_every_version_with_its_state() -> None:
    def mixed(upstream: FakeUpstream) -> None:
        upstream.models = (model(), model(version=2, ready=False))

    servicer = OipServicer((await catalog(a=mixed))[0])
    index = await servicer.repository_index(oip.RepositoryIndexRequest(), CALL)
    assert [(one.version, one.state) for one in index.models] == [("1", "READY"), ("2", "UNAVAILABLE")]
    assert len((await servicer.repository_index(oip.RepositoryIndexRequest(ready=True), CALL)).models) == 1
    with pytest.raises(UnknownMethod, match="'repository_name' specification is not supported"):
        await servicer.repository_index(oip.RepositoryIndexRequest(repository_name="x"), CALL)


async def test_statistics_are_those_of_all_instances_and_stay_when_one_dies() -> None:
    found, gateway = await catalog(a=counting(3), b=counting(4))
    servicer = OipServicer(found)

    async def count(name: str = "digits", version: str = "") -> int:
        request = oip.ModelStatisticsRequest(name=name, version=version)
        return sum(one.inference_count for one in (await servicer.model_statistics(request, CALL)).model_stats)

    assert [await count(), await count(""), await count(version="1")] == [7, 7, 7]
    gateway.fleet.changed(VISION, [instance("a", "critical"), instance("b")])
    gateway.fleet.changed(VISION, [instance("b")])
    gateway.fleet.sweep()
    counting(5)(gateway.made["b:1"])
    assert await count() == 8
    with pytest.raises(ModelNotFound, match="requested model 'nope' is not available"):
        await count("nope")
    with pytest.raises(ModelNotFound, match="requested model version is not available for model 'digits'"):
        await count(version="9")


async def test_answers_that_overtake_each_other_are_not_counted_twice() -> None:
    found, gateway = await catalog(a=counting(3))
    first = gateway.made["a:1"]
    first.hanging = asyncio.Event()
    early = asyncio.create_task(found.statistics())
    await first.reached.wait()
    late = [asyncio.create_task(found.statistics()) for _ in range(5)]
    await asyncio.sleep(0)
    asked = len(first.seen)
    counting(7)(first)
    first.hanging.set()
    sums = [(await task)["digits", "1"].inference_count for task in (early, *late)]
    assert sums == [7] * 6
    assert (asked, len(first.seen)) == (1, 2)  # one round serves all who came during the one before


async def test_an_instance_that_leaves_is_still_counted() -> None:
    found, gateway = await catalog(a=counting(3))
    gateway.fleet.changed(VISION, [instance("a", "maintenance")])
    assert [one.inference_count for one in (await found.statistics()).values()] == [3]


@pytest.mark.parametrize("what", ["load", "statistics"])
async def test_an_inquiry_keeps_the_connection_of_an_instance_that_leaves(what: str) -> None:
    found, gateway = await catalog(a=counting(3))
    leaving = gateway.made["a:1"]
    leaving.hanging = asyncio.Event()
    request = models_pb2.LoadModelRequest(model="digits")
    task: asyncio.Task[Any] = (
        asyncio.create_task(found.statistics())
        if what == "statistics"
        else asyncio.create_task(ModelServicer(found).load_model(request, CALL))
    )
    await leaving.reached.wait()
    gateway.fleet.changed(VISION, [instance("a", "maintenance")])
    gateway.fleet.changed(VISION, [])
    gateway.fleet.sweep()
    await asyncio.sleep(0)
    assert [leaving.closed] == [False]
    leaving.hanging.set()
    await task
    gateway.fleet.sweep()
    await asyncio.sleep(0)
    assert leaving.closed
    assert not gateway.fleet._learning  # nobody asks what one that is gone serves


async def test_counters_are_looked_at_again_after_a_round_that_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (await catalog(a=counting(3)))[0]
    rounds = asyncio.Queue[int]()

    async def wrong(*rest: object) -> None:
        rounds.put_nowait(1)
        raise ZeroDivisionError

    monkeypatch.setattr("gateway.inquiry.statistics", wrong)
    monkeypatch.setattr(found, "_settings", dataclasses.replace(CatalogSettings(), poll_s=0))
    with capture_logs() as logs:
        async with asyncio.timeout(10), found.running():
            for _ in range(2):
                await rounds.get()
    assert [entry["work"] for entry in logs][:1] == ["poll counters"]


async def test_before_discovery_has_answered_nothing_is_loaded() -> None:
    gateway = Gateway([])
    with pytest.raises(NotReady):
        await Catalog(gateway.fleet, CatalogSettings()).everywhere("path", b"", "m", CALL)
