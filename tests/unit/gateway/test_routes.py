"""Which endpoints a model's calls may go to, and what a caller hears where there is none."""

from collections.abc import Callable

import pytest

from gateway.endpoint import Endpoint
from gateway.methods import ANY
from gateway.routes import Pin, Route, Routes
from services.kit.errors import InvalidField, ModelNotFound, NoInstance, NotReady, Unloaded
from tests.unit.gateway.fakes import VISION, endpoint, model
from trivium.common.v1 import model_pb2


def routes(*endpoints: Endpoint) -> Routes:
    """Published after discovery has answered."""
    made = Routes()
    made.publish(endpoints, answered=True)
    return made


def names(route: Route) -> set[str]:
    return {found.id for found in route.endpoints}


OLD = endpoint("old", model(version=1))
NEW = endpoint("new", model(version=1), model(version=2, labels=("canary",)))
FAILED = endpoint("failed", model(version=3, ready=False))


def test_a_name_alone_means_the_highest_ready_version_of_all_instances() -> None:
    route = routes(OLD, NEW, FAILED).typed(VISION, "digits")
    assert (names(route), route.version) == ({"new"}, 2)


def test_an_exact_version_is_found_wherever_it_is() -> None:
    assert names(routes(OLD, NEW).typed(VISION, "digits:1")) == {"old", "new"}
    assert names(routes(OLD, NEW).named("digits", "1")) == {"old", "new"}


def test_a_label_is_found_where_an_instance_has_it() -> None:
    route = routes(OLD, NEW).typed(VISION, "digits@canary")
    assert (names(route), route.version) == ({"new"}, 2)


def test_an_empty_name_goes_to_every_instance_of_the_service_and_to_no_other() -> None:
    other = endpoint("other", service="trivium-sequence-v1")
    assert names(routes(OLD, NEW, other).typed(VISION, "")) == {"old", "new"}


def test_the_open_inference_protocol_finds_models_of_any_service() -> None:
    other = endpoint("other", model("rnn"), service="trivium-sequence-v1")
    found = routes(OLD, other)
    assert names(found.named("rnn", "")) == {"other"}
    assert names(found.typed(ANY, "rnn")) == {"other"}
    with pytest.raises(ModelNotFound, match="'rnn' is one of service trivium-sequence-v1"):
        found.typed(VISION, "rnn")
    with pytest.raises(ModelNotFound, match="Request for unknown model: 'gru' is not found"):
        found.typed(VISION, "gru")


def test_an_instance_without_model_service_answers_to_any_name_of_its_own_package() -> None:
    echo = endpoint("echo", service="trivium-echo-v1")
    echo.models, echo.any_model = None, True
    found = routes(echo, OLD)
    for text in ("", "whatever", "a:b:c", "x@"):
        assert names(found.typed("trivium-echo-v1", text)) == {"echo"}
    with pytest.raises(ModelNotFound):
        found.named("whatever", "")


def test_names_that_callers_make_up_are_not_kept() -> None:
    echo = endpoint("echo", service="trivium-echo-v1")
    echo.models, echo.any_model = None, True
    long = endpoint("long", model("x" * 1000))
    found = routes(echo, long)
    for number in range(100):
        found.typed("trivium-echo-v1", f"{number}" * 1000)
        found.named("x" * 1000, "1")
    kept = [*found._typed, *found._named]
    assert kept == [("trivium-echo-v1", "")]


@pytest.mark.parametrize("state", ["maintenance", "critical"])
def test_an_instance_that_leaves_or_fails_gets_nothing(state: str) -> None:
    leaving = endpoint("leaving", state=state)  # type: ignore[arg-type]
    assert names(routes(leaving, OLD).typed(VISION, "digits")) == {"old"}


def test_before_discovery_has_answered_nothing_is_said_to_be_missing() -> None:
    made = Routes()
    with pytest.raises(NotReady):
        made.typed(VISION, "digits")
    made.publish([], answered=False)
    with pytest.raises(NotReady):
        made.named("digits", "")


@pytest.mark.parametrize("text", ["nope", "digits:9", "digits@stable"])
def test_what_was_never_seen_is_not_found(text: str) -> None:
    with pytest.raises(ModelNotFound):
        routes(OLD, NEW).typed(VISION, text)


@pytest.mark.parametrize("text", ["digits", "digits:2", "digits@canary", ""])
def test_what_was_seen_and_is_gone_has_no_instance(text: str) -> None:
    made = routes(OLD, NEW)
    made.publish([], answered=True)
    with pytest.raises(NoInstance) as raised:
        made.typed(VISION, text)
    assert raised.value.retry_after_s


def test_a_model_that_all_have_unloaded_says_how_it_comes_back() -> None:
    made, without, untold = routes(OLD, NEW), endpoint("other", model(name="shapes")), endpoint("new")
    unloaded = endpoint("old", model(ready=False, labels=("stable",)))
    failed, leaving = endpoint("broken", model(ready=False)), endpoint("leaving", state="maintenance")
    untold.models = None
    made.publish([endpoint("old", model(labels=("stable",)))], answered=True)  # it has been seen
    assert failed.models is not None
    failed.models[0].state = model_pb2.MODEL_STATE_FAILED
    for there, wanted, said in (
        ([unloaded], "digits", True),
        ([unloaded, without], "digits:1", True),
        ([unloaded], "digits:2", False),  # who had that one is gone
        ([without], "digits", False),
        ([unloaded, untold], "digits", False),  # it may have it
        ([unloaded, failed], "digits", False),  # nobody has unloaded it there
        ([failed], "digits", False),
        ([unloaded, leaving], "digits", False),  # it has it, and may come back
        ([unloaded, NEW], "digits@stable", True),
        ([unloaded, endpoint("newest", model(version=3))], "digits@canary", False),  # who had that one is gone
        ([], "digits", False),
    ):
        made.publish(there, answered=True)
        with pytest.raises(NoInstance) as raised:
            made.typed(VISION, wanted)
        assert isinstance(raised.value, Unloaded) == ("LoadModel brings it back" in str(raised.value)) == said
    made.publish([unloaded], answered=True)
    with pytest.raises(Unloaded):
        made.named("digits", "")


def test_while_an_instance_has_not_told_its_models_nobody_says_not_found() -> None:
    silent = endpoint("silent")
    silent.models = None
    made = routes(OLD, silent)
    with pytest.raises(NotReady):
        made.typed(VISION, "nope")
    assert names(made.typed(VISION, "digits")) == {"old"}
    silent.ejected = True  # it may never tell
    made.publish([OLD, silent], answered=True)
    with pytest.raises(ModelNotFound):
        made.typed(VISION, "nope")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            "x",
            "failed to get model version from specified version string 'x' (details: stol), "
            "version should be an integral value > 0",
        ),
        ("-1", "invalid model version specified '-1' , version should be an integral value > 0"),
        ("0", "invalid model version specified '0' , version should be an integral value > 0"),
        ("9" * 30, f"invalid model version specified '{'9' * 30}' , version should be an integral value > 0"),
    ],
)
def test_a_malformed_version_is_refused_in_tritons_words(version: str, message: str) -> None:
    with pytest.raises(InvalidField, match="version should be") as raised:
        routes(OLD).named("digits", version)
    assert raised.value.message == message


def test_an_unknown_model_is_refused_in_tritons_words() -> None:
    for name, version, message in (
        ("nope", "", "Request for unknown model: 'nope' is not found"),
        ("digits", "9", "Request for unknown model: 'digits' version 9 is not found"),
        ("", "", "Request for unknown model: '' is not found"),
    ):
        with pytest.raises(ModelNotFound) as raised:
            routes(OLD).named(name, version)
        assert raised.value.message == message


def test_a_name_like_a_known_one_is_answered_with_it() -> None:
    found = routes(OLD, endpoint("other", model("digit-rnn"), service="trivium-sequence-v1"))
    asks: dict[str, Callable[[], Route]] = {
        "Request for unknown model: 'digit' is not found; did you mean 'digits'?": lambda: found.typed(VISION, "digit"),
        "Request for unknown model: 'digits-rnn' is not found; did you mean 'digit-rnn'?": lambda: found.named(
            "digits-rnn", ""
        ),
        "Request for unknown model: 'digit-rn' is not found": lambda: found.typed("trivium-language-v1", "digit-rn"),
        f"Request for unknown model: '{'digits' * 100}' is not found": lambda: found.named("digits" * 100, ""),
    }
    for says, ask in asks.items():
        with pytest.raises(ModelNotFound) as raised:
            ask()
        assert raised.value.message == says


def test_a_malformed_typed_name_is_refused() -> None:
    with pytest.raises(InvalidField):
        routes(OLD).typed(VISION, "digits:x")


def test_a_change_of_the_endpoints_counts_for_names_that_were_asked_for_before() -> None:
    made = routes(OLD)
    assert names(made.typed(VISION, "digits")) == {"old"}
    made.publish([OLD, NEW], answered=True)
    assert names(made.typed(VISION, "digits")) == {"new"}


async def test_a_change_of_the_endpoints_wakes_those_who_wait_for_one() -> None:
    made = routes(OLD)
    changed = made.changed
    assert not changed.is_set()
    made.publish([OLD, NEW], answered=True)
    assert changed.is_set()
    assert not made.changed.is_set()


def test_what_has_begun_is_pinned_to_its_bundle() -> None:
    same = [endpoint(name, model(version=1, digest="d1"), model(version=2, digest="d3")) for name in ("a", "b")]
    foreign = endpoint("foreign", model(version=1, digest="d2"))
    found = routes(*same, foreign)
    pin = Pin.of(same[0], "digits", 1)
    assert pin == Pin("digits", 1, "d1")
    for service in (VISION, ANY):
        assert names(found.pinned(service, pin)) == {"a", "b"}
    found.publish([foreign], answered=True)
    with pytest.raises(NoInstance):
        found.pinned(VISION, pin)
    assert names(found.pinned(VISION, Pin("digits", 1, ""))) == {"foreign"}


def test_a_bundle_is_the_same_where_its_known_answers_are_other_bits() -> None:
    one, alike = (endpoint(name, model(digest="d1", answers="a1")) for name in ("one", "alike"))
    other, silent = endpoint("other", model(digest="d1", answers="a2")), endpoint("silent", model(digest="d1"))
    pin = Pin.said(one, "digits:1")
    assert pin == Pin("digits", 1, "d1")
    assert names(routes(one, alike, other, silent).pinned(VISION, pin)) == {"one", "alike", "other", "silent"}
    assert [pin.alike(found) for found in (one, alike, other, silent)] == [True, True, False, False]
    assert [pin.computed(other).alike(found) for found in (one, other)] == [False, True]
    assert all(pin.computed(silent).alike(found) for found in (one, other, silent))


@pytest.mark.parametrize("said", ["", "digits", "digits:", "digits:x", ":1", "digits:0"])
def test_what_is_no_name_and_version_pins_nothing(said: str) -> None:
    assert Pin.said(OLD, said) is None


def test_a_route_says_whether_its_version_keeps_state() -> None:
    mixed = endpoint("mixed", model(version=1, stateful=True), model(version=2))
    found = routes(mixed, endpoint("plain", model("shapes")))
    assert [found.named("digits", version).stateful for version in ("1", "2", "")] == [True, False, False]
    assert found.stateful == {"digits"}
    found.publish([], answered=True)
    assert found.stateful == {"digits"}
