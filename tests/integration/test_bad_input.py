"""Whatever is thrown at a real server, each caller gets what it deserves, and its neighbours the right answer."""

import io
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import bundles
from tests.harness import OPTIONS, Suite
from tests.hostile import CLASSIFY, REFUSALS, THROWN, details
from tests.images import png
from trivium.vision.v1 import vision_pb2

RED = png((220, 30, 30))
MIB = 1024 * 1024
BATCH, EXAMPLES = 25, 100  # requests thrown at once, and how often: 2500 in all


class Server:
    """A vision instance in a process of its own, called over a real connection."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def start(self, path: str, data: bytes, timeout_s: float = 20) -> Any:
        """The call, under way."""
        method: Any = self._channel.unary_unary(path)
        return method.future(data, timeout=timeout_s)

    def classify(self, image: bytes, **fields: Any) -> Any:
        """The answer of Classify."""
        request = vision_pb2.ClassifyRequest(image=image, **{"model": "colours", **fields})
        return vision_pb2.ClassifyResponse.FromString(self.start(CLASSIFY, request.SerializeToString()).result())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("bad")
    bundles.colours(folder / "bundles")
    bundles.add(folder / "bundles", width=4)
    async with Suite.open(folder) as suite:
        replica = await suite.start("vision", "vision-1", BUNDLES_DIR=folder / "bundles", DEFAULT_MODEL="colours")
        with grpc.insecure_channel(replica.address, options=OPTIONS) as channel:
            yield Server(channel)
        assert await replica.stop() == 0


def refused(call: Any) -> tuple[str, str, str]:
    """Code, reason and field of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    code, info, bad = details(caught.value)
    assert info.metadata["executed"] == "no"
    return code, info.reason, bad.field_violations[0].field if bad.field_violations else ""


def bomb(width: int, height: int) -> bytes:
    """A small file that says it is a large image."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "IMAGE_UNREADABLE"),
        (RED[: len(RED) // 2], "IMAGE_UNREADABLE"),
        (b"GIF89a" + bytes(100), "IMAGE_UNREADABLE"),
        (b"<svg/>", "IMAGE_UNREADABLE"),
        (b"BM" + bytes(52), "IMAGE_UNREADABLE"),  # 0 x 0 pixels
        (bomb(10_000, 10_000), "INPUT_TOO_LARGE"),
        (bytes(17 * MIB), "INPUT_TOO_LARGE"),
    ],
    ids=["empty", "truncated", "gif", "svg", "no pixels", "100 megapixels", "17 MiB"],
)
def test_what_is_no_image_is_refused_by_name(server: Server, image: bytes, reason: str) -> None:
    assert refused(lambda: server.classify(image)) == ("INVALID_ARGUMENT", reason, "image")


@pytest.mark.parametrize("top_k", [0, 101, 10_000, 2**32 - 1])
def test_top_k_has_its_limits(server: Server, top_k: int) -> None:
    assert refused(lambda: server.classify(RED, top_k=top_k)) == ("INVALID_ARGUMENT", "INVALID_FIELD", "top_k")


def test_a_message_of_100_mb_ends_in_resource_exhausted(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.classify(bytes(100 * MIB))
    assert details(caught.value)[0] == "RESOURCE_EXHAUSTED"
    assert server.classify(RED).classes[0].label == "red"


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """What became of all the requests that were thrown."""
    yield (counted := Counter[str]())
    assert counted.total() >= 2000
    assert counted["INVALID_ARGUMENT"] > 500


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(thrown=st.lists(THROWN, min_size=BATCH, max_size=BATCH), colour=st.sampled_from(["red", "green", "blue"]))
def test_no_request_harms_the_server_or_its_neighbours(
    server: Server, tally: Counter[str], thrown: list[tuple[str, bytes]], colour: str
) -> None:
    calls = [server.start(path, data) for path, data in thrown]
    image = png({"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}[colour])
    assert server.classify(image).classes[0].label == colour
    for call in calls:
        error = call.exception()
        if error is None:
            tally["OK"] += 1  # a change that did no harm
            continue
        code, info, _ = details(error)
        tally[code] += 1
        assert code in REFUSALS, (code, error.details())
        assert (info.domain, info.metadata["instance"]) == ("trivium", "vision-1")
        assert info.metadata["executed"] == "no"
        assert len(error.details()) > 10
