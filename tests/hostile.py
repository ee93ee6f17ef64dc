"""Requests in which something is off, or may be, for an instance or a gateway with the bundles `colours` and `add`."""

import io
from typing import Any

from google.rpc import status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from hypothesis import strategies as st
from PIL import Image

from inference import grpc_service_pb2 as oip
from trivium.vision.v1 import vision_pb2

CLASSIFY, EMBED = "/trivium.vision.v1.VisionService/Classify", "/trivium.vision.v1.VisionService/Embed"
INFER = "/inference.GRPCInferenceService/ModelInfer"
REFUSALS = ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")  # what such a request may end in, if not in OK
DATATYPES = ("BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "", "NONSENSE")


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
