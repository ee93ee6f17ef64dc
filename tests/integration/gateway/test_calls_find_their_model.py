"""A call reaches the model that it names, or is told why not; its caller sees one server."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness import error_info
from tests.hostile import REFUSALS, THROWN, details
from tests.images import png
from tests.integration.gateway.calls import INFERENCE, VISION, Gateway, fails, infer

pytestmark = pytest.mark.asyncio(loop_scope="package")
COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
MIB = 1024 * 1024


async def test_an_answer_says_who_gave_it_and_where_its_time_went(gateway: Gateway) -> None:
    trailers = await gateway.trailers()
    assert (trailers["trivium-model"], trailers["trivium-version"]) == ("colours", "2")
    assert trailers["trivium-instance"] in ("vision-1", "vision-2")
    assert trailers["trivium-attempts"] == "1"
    for key in ("trivium-queue-us", "trivium-compute-us", "trivium-batch-size"):
        assert int(trailers[key]) >= 0


async def test_both_instances_get_calls(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(gateway.trailers() for _ in range(60)))
    assert {answer["trivium-instance"] for answer in answers} == {"vision-1", "vision-2"}


@pytest.mark.parametrize(
    ("model", "version"), [("colours", "2"), ("colours:1", "1"), ("colours@stable", "1"), ("colours@canary", "2")]
)
async def test_a_name_a_version_and_a_label_find_their_model(gateway: Gateway, model: str, version: str) -> None:
    assert (await gateway.trailers(model))["trivium-version"] == version


async def test_an_empty_name_is_the_services_default(gateway: Gateway) -> None:
    assert (await gateway.trailers(""))["trivium-model"] == "digits-cnn"


@pytest.mark.parametrize(
    ("model", "code", "reason"),
    [
        ("nobody", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("colours:9", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("colours@nothing", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("colours:x", "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("colours:0", "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("identity", "UNIMPLEMENTED", "UNSUPPORTED_BY_MODEL"),
    ],
)
async def test_a_wrong_model_is_told_apart(gateway: Gateway, model: str, code: str, reason: str) -> None:
    assert await fails(gateway.classify(model=model)) == (code, reason)


async def test_an_instances_error_passes_unchanged(gateway: Gateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.classify(image=b"no image at all")
    info = error_info(caught.value)
    assert (caught.value.code().name, info.reason) == ("INVALID_ARGUMENT", "IMAGE_UNREADABLE")
    assert info.metadata["instance"].startswith("vision-")
    assert (info.metadata["stage"], info.metadata["executed"]) == ("decode", "no")


@pytest.mark.parametrize("data", [b"\xff" * 30, b"\x0a\xff", b"\x0a\x02\xff\xfe\x12\x01x"])
async def test_garbage_is_malformed(gateway: Gateway, data: bytes) -> None:
    assert await fails(gateway.start(VISION, "Classify", data)) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert await fails(gateway.start(INFERENCE, "ModelInfer", data)) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")


async def test_a_message_of_100_mb_is_refused_and_the_connection_stays(gateway: Gateway) -> None:
    code, _ = await fails(gateway.classify(image=bytes(100 * MIB)))
    assert code == "RESOURCE_EXHAUSTED"
    assert (await gateway.classify()).classes[0].label == "red"


async def test_a_deadline_of_zero_is_exceeded(gateway: Gateway) -> None:
    """With a large image: the transport sends no timeout below a millisecond, and a quick answer would arrive."""
    assert (await fails(gateway.classify(image=png((220, 30, 30), (3000, 3000)), timeout=0)))[0] == "DEADLINE_EXCEEDED"
    assert (await gateway.classify()).classes[0].label == "red"


async def test_an_unknown_method_names_what_there_is(gateway: Gateway) -> None:
    """Many at once: a stream that an instance ends while it is still written to keeps the instance's status."""
    calls = [gateway.start(service, "Paint", b"") for service in (VISION, "no.such.Service") for _ in range(100)]
    outcomes = await asyncio.gather(*(fails(call) for call in calls))
    assert set(outcomes) == {("UNIMPLEMENTED", "UNKNOWN_METHOD")}


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """What became of all the requests that were thrown."""
    yield (counted := Counter[str]())
    assert counted.total() >= 400
    assert counted["INVALID_ARGUMENT"] > 100


@settings(max_examples=16, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(thrown=st.lists(THROWN, min_size=25, max_size=25), colour=st.sampled_from(sorted(COLOURS)))
async def test_no_request_harms_the_gateway_or_its_neighbours(
    gateway: Gateway, tally: Counter[str], thrown: list[tuple[str, bytes]], colour: str
) -> None:
    calls = [gateway.channel.unary_unary(path)(data, timeout=20) for path, data in thrown]
    assert (await gateway.classify(png(COLOURS[colour]))).classes[0].label == colour
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, bytes):
            tally["OK"] += 1
            continue
        code, info, _ = details(outcome)
        tally[code] += 1
        assert code in REFUSALS, (code, outcome)
        assert (info.domain, info.metadata["executed"]) == ("trivium", "no")
        assert info.metadata["instance"]
        assert info.reason


async def test_an_unknown_model_has_tritons_words(gateway: Gateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.inference("ModelInfer", infer("nope"))
    assert caught.value.details() == "Request for unknown model: 'nope' is not found"
    assert (caught.value.code().name, error_info(caught.value).reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
