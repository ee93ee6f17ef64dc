"""Whatever is thrown at a real server, each caller gets what it deserves, and its neighbours the right answer."""

import io
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from inference import grpc_service_pb2 as oip
from tests import bundles
from tests.harness import OPTIONS, Suite
from tests.images import png
from trivium.vision.v1 import vision_pb2

CLASSIFY, EMBED = "/trivium.vision.v1.VisionService/Classify", "/trivium.vision.v1.VisionService/Embed"
INFER = "/inference.GRPCInferenceService/ModelInfer"
RED = png((220, 30, 30))
MIB = 1024 * 1024
BATCH, EXAMPLES = 25, 100  # requests thrown at once, and how often: 2500 in all
DATATYPES = ("BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "", "NONSENSE")


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


def details(error: Any) -> tuple[str, ErrorInfo, BadRequest]:
    """Code, ErrorInfo and BadRequest of a failed call."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
    info, bad = ErrorInfo(), BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return error.code().name, info, bad


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


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with some bytes changed, cut out or cut off."""

    def change(parts: tuple[int, int, bytes]) -> bytes:
        start, length, filling = parts
        return data[:start] + filling + data[start + length :]

    return st.tuples(st.integers(0, len(data)), st.integers(0, len(data)), st.binary(max_size=8)).map(change)


def images() -> st.SearchStrategy[bytes]:
    """Bytes that are no image, or nearly one."""
    files = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        buffer = io.BytesIO()
        Image.new("RGB", (9, 7), (220, 30, 30)).save(buffer, kind)
        files.append(buffer.getvalue())
    return st.one_of(st.binary(max_size=64), *(mutated(file) for file in files))


@st.composite
def tensors(draw: st.DrawFn) -> bytes:
    """A request to the bundle `add` in which something is off, or may be."""
    request = oip.ModelInferRequest(model_name=draw(st.sampled_from(["add", "add", "add", "nope", ""])))
    request.model_version = draw(st.sampled_from(["", "1", "9", "x", "-1"]))
    request.id = draw(st.text(max_size=300))
    for name in draw(st.lists(st.sampled_from(["a", "b", "z", ""]), max_size=4)):
        shape = draw(st.lists(st.one_of(st.integers(-2, 5), st.sampled_from([2**31, 2**62, -(2**63)])), max_size=4))
        tensor = request.inputs.add(name=name, datatype=draw(st.sampled_from(DATATYPES)), shape=shape)
        if draw(st.booleans()):
            tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=4)))
            tensor.contents.int_contents.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=40), max_size=4)))
    for name in draw(st.lists(st.sampled_from(["sum", "difference", "nope", ""]), max_size=3)):
        request.outputs.add(name=name)
    if draw(st.booleans()):
        request.parameters[draw(st.text(max_size=12))].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
    return request.SerializeToString()


def classifications() -> st.SearchStrategy[bytes]:
    """Requests to Classify in which something is off, or may be."""
    names = st.one_of(st.sampled_from(["colours", "colours:1", "colours@stable", "add"]), st.text(max_size=20))
    top_ks = st.one_of(st.none(), st.integers(0, 2**32 - 1))
    return st.builds(vision_pb2.ClassifyRequest, model=names, image=images(), top_k=top_ks).map(
        lambda request: request.SerializeToString()
    )


THROWN = st.one_of(
    st.tuples(st.sampled_from([CLASSIFY, EMBED, INFER]), st.binary(max_size=200)),
    st.tuples(st.just(CLASSIFY), classifications()),
    st.tuples(st.just(EMBED), images().map(lambda image: vision_pb2.EmbedRequest(image=image).SerializeToString())),
    st.tuples(st.just(INFER), tensors()),
)


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
        assert code in ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"), (code, error.details())
        assert (info.domain, info.metadata["instance"]) == ("trivium", "vision-1")
        assert info.metadata["executed"] == "no"
        assert len(error.details()) > 10


@pytest.mark.parametrize("kind", ["FP32", "FP16", "INT8", "UINT8", "INT32", "INT64", "BOOL", "BYTES"])
def test_every_datatype_goes_through_raw(tmp_path_factory: pytest.TempPathFactory, server: Server, kind: str) -> None:
    """The tensors themselves are tested in tests/unit; here the bundle `add` refuses those it does not take."""
    request = oip.ModelInferRequest(model_name="add")
    for name in ("a", "b"):
        request.inputs.add(name=name, datatype=kind, shape=[1, 4])
        request.raw_input_contents.append(np.arange(4, dtype=np.int32).tobytes())
    call = server.start(INFER, request.SerializeToString())
    if kind == "INT32":
        answer = oip.ModelInferResponse.FromString(call.result())
        assert np.frombuffer(answer.raw_output_contents[0], np.int32).tolist() == [0, 2, 4, 6]
    else:
        assert refused(call.result)[:2] == ("INVALID_ARGUMENT", "INVALID_FIELD")
