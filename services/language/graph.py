"""Graph: which inputs and outputs the graphs of a generating bundle have, by name.

The decoder takes several tokens of several rows, writes their keys and values into the cache in place, and chooses a
token after each position that `out_index` names. Prompts, parts of prompts and single steps are the same graph, and
give the same bits, however a text is cut and whatever runs beside it.
"""

from services.kit.inference.bundle import TensorSpec
from services.kit.inference.manifest import Generation

TOKEN_IDS, START, OUT_INDEX = "token_ids", "start", "out_index"  # int64 [rows, steps], [rows], [draws]
STEPS, PLACES = "steps", "places"  # int64 [steps], [room in the cache]: 0, 1, ...
# int64 [4]: the shape that queries, [rows, heads, steps, head_dim], get before they are multiplied with keys; 0: as it
# is, -1: what is left. Each is a product of its own, as a CPU gives them the same bits in every run then; on a GPU,
# which is quicker with few and large products, all that share keys are one. Only with FP32: others are for GPUs.
QUERIES = "queries"
BY_QUERY = (0, -1, 1, 0)
# bool [1]: whether every top_k is 1 and no logit changes, so that tokens are found more quickly. Only with FP32: other
# precisions are for GPUs, where runs are recorded, which takes a graph without branches.
PLAIN = "plain"
TEMPERATURE, TOP_P, MIN_P, UNIFORM = "temperature", "top_p", "min_p", "uniform"  # float32 [draws, 1]
TOP_K, FORCED = "top_k", "forced"  # int64 [draws, 1]; forced: -1, or the token that is taken instead of a draw
RANKS = "ranks"  # int64 [candidates]: 0, 1, ...; at least as many as any draw's top_k, and not more than tokens
# Logits to change: int64 [changes, 2] (draw, token), float32 [changes]. A logit l > 0 becomes l / scale + bias, another
# one l * scale + bias.
ADJUST_INDEX, ADJUST_SCALE, ADJUST_BIAS = "adjust_index", "adjust_scale", "adjust_bias"
TOKEN, LOGPROB = "token", "logprob"  # int64, float32 [draws, 1]
TOP_TOKEN, TOP_LOGPROB = "top_token", "top_logprob"  # int64, float32 [draws, candidates]
SOURCE, SOURCE_LENGTH = "source", "source_length"  # of the encoder: int64 [rows, tokens], [rows]

MOST_CANDIDATES, MOST_ALTERNATIVES = 64, 20
ROOM = 16  # tokens; room in a cache is a multiple of it, for the last columns of other products are rounded otherwise


def queries(generation: Generation, device: str) -> tuple[int, int, int, int]:
    """How they lie in the products of attention on a device."""
    return BY_QUERY if device == "cpu" else (0, generation.kv_heads, -1, 0)


def room(tokens: int) -> int:
    """What a cache has at least for so many."""
    return -(-tokens // ROOM) * ROOM


def candidates(generation: Generation) -> int:
    """The most probable tokens that a draw is made from."""
    return min(MOST_CANDIDATES, generation.vocab)


def past(layers: int) -> list[str]:
    """The cache as it was, block by block."""
    return [f"past_{part}_{layer}" for layer in range(layers) for part in "kv"]


def present(layers: int) -> list[str]:
    """The cache as it is then: the same memory."""
    return [f"present_{part}_{layer}" for layer in range(layers) for part in "kv"]


def cross(layers: int) -> list[str]:
    """What the encoder says of the source text, block by block."""
    return [f"cross_{part}_{layer}" for layer in range(layers) for part in "kv"]


def decoder_inputs(generation: Generation) -> list[TensorSpec]:
    """All of them."""
    float32 = generation.precision == "FP32"
    rows, draws, cache = (-1,), (-1, 1), (-1, generation.kv_heads, -1, generation.head_dim)
    own = [
        TensorSpec(TOKEN_IDS, "INT64", (-1, -1)),
        TensorSpec(START, "INT64", rows),
        *(TensorSpec(name, "INT64", rows) for name in (STEPS, PLACES)),
        TensorSpec(OUT_INDEX, "INT64", rows),
        *((TensorSpec(QUERIES, "INT64", (4,)), TensorSpec(PLAIN, "BOOL", (1,))) if float32 else ()),
        *(TensorSpec(name, "FP32", draws) for name in (TEMPERATURE, TOP_P, MIN_P, UNIFORM)),
        *(TensorSpec(name, "INT64", draws) for name in (TOP_K, FORCED)),
        TensorSpec(RANKS, "INT64", rows),
        TensorSpec(ADJUST_INDEX, "INT64", (-1, 2)),
        *(TensorSpec(name, "FP32", rows) for name in (ADJUST_SCALE, ADJUST_BIAS)),
        *(TensorSpec(name, generation.precision, cache) for name in past(generation.layers)),
    ]
    if not generation.max_source:
        return own
    encoded = (-1, generation.heads, -1, generation.head_dim)
    return [
        *own,
        TensorSpec(SOURCE_LENGTH, "INT64", rows),
        *(TensorSpec(name, generation.precision, encoded) for name in cross(generation.layers)),
    ]


def decoder_outputs() -> list[TensorSpec]:
    """All but the cache, whose shape is that of its input."""
    return [
        TensorSpec(TOKEN, "INT64", (-1, 1)),
        TensorSpec(LOGPROB, "FP32", (-1, 1)),
        TensorSpec(TOP_TOKEN, "INT64", (-1, -1)),
        TensorSpec(TOP_LOGPROB, "FP32", (-1, -1)),
    ]
