"""Requests about texts in which something is off, or may be, for an instance or a gateway with the test bundles."""

import math

from hypothesis import strategies as st

from inference import grpc_service_pb2 as oip
from tests.hostile import DATATYPES, mutated
from tests.texts import CLASSIFY, DETOKENIZE, EMBED, GENERATE, INFER, SCORE, TOKENIZE, infer_request
from trivium.language.v1 import language_pb2 as pb

MODELS = st.one_of(
    st.sampled_from(["gpt", "gpt", "gpt:1", "translate", "recite", "scripts", "", "nope", ":", "gpt:x"]),
    st.text(max_size=9),
)
TEXTS = st.one_of(st.text(max_size=30), st.sampled_from(["", "def f(x):", "三百🙂", "x" * 300, "\0", "\x85\u2028"]))
TOKENS = st.lists(st.one_of(st.integers(0, 267), st.sampled_from([266, 267, 2**31, 2**32 - 1])), max_size=6)
FLOATS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e38, -0.0, math.nan, math.inf, -math.inf]), st.floats(width=32)
)
COUNTS = st.one_of(st.integers(0, 20), st.sampled_from([255, 256, 257, 2**31, 2**32 - 1]))


@st.composite
def generates(draw: st.DrawFn) -> bytes:
    """A GenerateRequest with some fields set to anything."""
    request = pb.GenerateRequest(model=draw(MODELS), prompt=draw(TEXTS), max_new_tokens=draw(st.integers(0, 12)))
    for name in draw(st.lists(st.sampled_from(_ODDITIES), max_size=2)):
        if name == "prompt_token_ids":
            request.prompt_token_ids.extend(draw(TOKENS))
        elif name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            setattr(request, name, draw(FLOATS))
        elif name in ("max_new_tokens", "top_k", "logprobs", "min_new_tokens", "n"):
            setattr(request, name, draw(COUNTS))
        elif name == "stop":
            request.stop.extend(draw(st.lists(st.text(max_size=4), max_size=18)))
        elif name == "stop_token_ids":
            request.stop_token_ids.extend(draw(TOKENS))
        elif name == "logit_bias":
            request.logit_bias[draw(st.integers(0, 300))] = draw(FLOATS)
        elif name == "priority":
            request.priority = draw(st.integers(-(2**31), 2**31 - 1))
        elif name == "continue_from":
            request.continue_from.generated_token_ids.extend(draw(TOKENS))
            for ids in draw(st.lists(TOKENS, max_size=2)):
                request.continue_from.further.add(ids=ids)
        elif name == "seed":
            request.seed = draw(st.integers(0, 2**64 - 1))
        else:
            setattr(request, name, draw(st.booleans()))
    return request.SerializeToString()


_ODDITIES = [field.name for field in pb.GenerateRequest.DESCRIPTOR.fields if field.name not in ("model", "prompt")]


@st.composite
def infers(draw: st.DrawFn) -> bytes:
    """A request of the Open Inference Protocol, to a model that writes or to one that classifies."""
    request: oip.ModelInferRequest = infer_request(draw(MODELS), draw(TEXTS), draw(st.integers(-2, 12)))
    for tensor in request.inputs:
        if draw(st.integers(0, 7)) == 0:
            tensor.datatype = draw(st.sampled_from(DATATYPES))
        if draw(st.integers(0, 7)) == 0:
            tensor.shape[:] = draw(st.lists(st.integers(-1, 3), max_size=3))
        if draw(st.integers(0, 9)) == 0:
            tensor.name = draw(st.sampled_from(["text_input", "max_tokens", "token_ids", ""]))
    if draw(st.booleans()):
        name = draw(
            st.one_of(st.sampled_from(["temperature", "seed", "stop", "ignore_eos", "top_k"]), st.text(max_size=9))
        )
        field = draw(st.sampled_from(["bool_param", "int64_param", "string_param", "double_param", "uint64_param"]))
        values: dict[str, st.SearchStrategy[object]] = {
            "bool_param": st.booleans(),
            "int64_param": st.integers(-(2**63), 2**63 - 1),
            "uint64_param": st.integers(0, 2**64 - 1),
            "string_param": st.text(max_size=6),
            "double_param": st.floats(),
        }
        setattr(request.parameters[name], field, draw(values[field]))
    return request.SerializeToString()


def _bytes(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[bytes]:
    return strategy.map(lambda message: message.SerializeToString())  # type: ignore[attr-defined]


UNARY = st.one_of(
    st.tuples(st.just(SCORE), _bytes(st.builds(pb.ScoreRequest, model=MODELS, context=TEXTS, text=TEXTS))),
    st.tuples(
        st.just(SCORE), _bytes(st.builds(pb.ScoreRequest, context_token_ids=TOKENS, text_token_ids=TOKENS, text=TEXTS))
    ),
    st.tuples(st.just(CLASSIFY), _bytes(st.builds(pb.ClassifyRequest, model=MODELS, text=TEXTS, top_k=COUNTS))),
    st.tuples(st.just(EMBED), _bytes(st.builds(pb.EmbedRequest, model=MODELS, text=TEXTS))),
    st.tuples(st.just(TOKENIZE), _bytes(st.builds(pb.TokenizeRequest, model=MODELS, text=TEXTS))),
    st.tuples(
        st.just(DETOKENIZE), _bytes(st.builds(pb.DetokenizeRequest, model=MODELS, token_ids=TOKENS, each=st.booleans()))
    ),
    st.tuples(st.just(INFER), infers()),
    st.tuples(st.sampled_from([SCORE, CLASSIFY, EMBED, TOKENIZE, DETOKENIZE, INFER]), st.binary(max_size=60)),
)
THROWN = st.one_of(
    st.tuples(st.just(GENERATE), generates()),
    st.tuples(st.just(GENERATE), generates().flatmap(mutated)),
    UNARY,
)
