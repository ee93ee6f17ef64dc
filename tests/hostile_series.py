"""Requests about series in which something is off, or may be, for an instance or a gateway with the bundle `lstm`."""

import numpy as np
from hypothesis import strategies as st

from inference import grpc_service_pb2 as oip
from tests.hostile import DATATYPES, mutated
from tests.series import CLASSIFY, FORECAST, INFER
from trivium.sequence.v1 import sequence_pb2 as pb

MODELS = st.one_of(
    st.sampled_from(["lstm", "lstm", "lstm", "lstm:1", "rnn", "both", "", "nope", ":"]), st.text(max_size=9)
)
NUMBERS = st.one_of(st.floats(width=32), st.sampled_from([0.0, 1.0, -1.0, 1e38, -1e38]))
SERIES = st.one_of(
    st.lists(NUMBERS, max_size=12), st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=2),
    st.integers(0, 240).map(lambda count: [0.5] * count),
)  # fmt: skip
TOP_KS = st.one_of(st.none(), st.integers(0, 2**32 - 1), st.integers(1, 5))
IDS = st.one_of(
    st.integers(-2, 4), st.integers(-(2**63), 2**63 - 1), st.text(max_size=22), st.sampled_from(["i" * 257])
)


def tracks(state: bytes) -> st.SearchStrategy[list[bytes]]:
    """The messages of a stream; `state` is one that it may go on from."""
    messages = st.builds(
        pb.TrackRequest,
        model=MODELS,
        values=SERIES,
        top_k=TOP_KS,
        return_state=st.booleans(),
        resume_state=st.one_of(st.just(b""), st.just(state), mutated(state), st.binary(max_size=90)),
    ).map(lambda message: message.SerializeToString())
    later = st.builds(pb.TrackRequest, values=SERIES).map(lambda message: message.SerializeToString())
    return st.tuples(messages, st.lists(st.one_of(later, later, messages, st.binary(max_size=30)), max_size=4)).map(
        lambda parts: [parts[0], *parts[1]]
    )


@st.composite
def infers(draw: st.DrawFn, state: str) -> bytes:
    """A request of the Open Inference Protocol; `state` is one that it may go on from."""
    request = oip.ModelInferRequest(model_name=draw(MODELS))
    steps, width = draw(st.integers(0, 5)), draw(st.sampled_from([2, 2, 2, 1, 3, 0]))
    rows = draw(st.sampled_from([1, 1, 1, 0, 2, 70]))
    datatype = draw(st.sampled_from(["FP32", "FP32", "FP32", *DATATYPES]))
    request.inputs.add(name=draw(st.sampled_from(["x", "x", "x", "state", ""])), datatype=datatype)
    request.inputs[0].shape.extend((rows, steps, width))
    values = draw(st.lists(NUMBERS, min_size=rows * steps * width, max_size=rows * steps * width))
    request.raw_input_contents.append(np.array(values, np.float32).tobytes())
    if draw(st.booleans()):
        chosen = draw(IDS)
        field = "string_param" if isinstance(chosen, str) else "int64_param"
        setattr(request.parameters["sequence_id"], field, chosen)
    for name in ("sequence_start", "sequence_end"):
        if draw(st.booleans()):
            request.parameters[name].bool_param = draw(st.booleans())
    if draw(st.integers(0, 9)) == 0:
        request.parameters["sequence_start"].int64_param = 1
    if draw(st.booleans()):
        text = draw(st.one_of(st.just(state), st.just(""), st.text(max_size=20), mutated(state.encode()).map(_text)))
        request.parameters["trivium_state"].string_param = text
    return request.SerializeToString()


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def unaries(state: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """Paths, and what is sent there."""
    classify = st.builds(pb.ClassifyRequest, model=MODELS, values=SERIES, top_k=TOP_KS)
    forecast = st.builds(pb.ForecastRequest, model=MODELS, values=SERIES, horizon=TOP_KS)
    return st.one_of(
        st.tuples(st.sampled_from([CLASSIFY, FORECAST, INFER]), st.binary(max_size=60)),
        st.tuples(st.just(CLASSIFY), classify.map(lambda message: message.SerializeToString())),
        st.tuples(st.just(FORECAST), forecast.map(lambda message: message.SerializeToString())),
        st.tuples(st.just(INFER), infers(state)),
    )
