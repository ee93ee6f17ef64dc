import math
from typing import Any

import pytest

from services.kit.errors import InvalidField
from services.kit.inference.manifest import Generation
from services.language import wishes
from trivium.language.v1 import language_pb2 as pb

GENERATION = Generation(
    vocab=100, layers=1, heads=1, kv_heads=1, head_dim=4, max_tokens=64, begin=(), end=(99,), tokenizer="tokenizer.json"
)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("temperature", [0, 0.7, 100], [-0.1, 101, math.nan, math.inf]),
        ("top_k", [0, 64], [65]),
        ("top_p", [0.1, 1], [0, -1, 1.1, math.nan]),
        ("min_p", [0, 1], [-0.1, 1.1]),
        ("repetition_penalty", [0.5, 10], [0, 10.5]),
        ("presence_penalty", [-2, 2], [-2.5, 2.5]),
        ("frequency_penalty", [-2, 2], [-2.5, 2.5]),
        ("logprobs", [0, 20], [21]),
        ("n", [1, 8], [0, 9]),
        ("priority", [-100, 100], [-101, 101]),
        ("stop", [["a"], ["x"] * 16], [[""], ["x" * 257], ["x"] * 17]),
        ("stop_token_ids", [[99]], [[100], [1] * 17]),
        ("logit_bias", [{3: 1.0}], [{100: 1.0}, {3: 101.0}, {3: math.nan}, dict.fromkeys(range(257), 1.0)]),
    ],
)
def test_each_wish_has_its_range(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        wishes.check(pb.GenerateRequest(**{field: value}), GENERATION)
    for value in bad:
        with pytest.raises(InvalidField) as refused:
            wishes.check(pb.GenerateRequest(**{field: value}), GENERATION)
        assert refused.value.metadata["field"].startswith(field)
        assert refused.value.metadata["limit"]


def test_what_is_gone_on_from_is_looked_at() -> None:
    ids = pb.ContinueFrom(generated_token_ids=[1, 2])
    wishes.check(pb.GenerateRequest(continue_from=ids), GENERATION)
    with pytest.raises(InvalidField, match="seed"):
        wishes.check(pb.GenerateRequest(continue_from=ids, temperature=1), GENERATION)
    with pytest.raises(InvalidField, match="100"):
        wishes.check(pb.GenerateRequest(continue_from=pb.ContinueFrom(generated_token_ids=[100])), GENERATION)
    further = pb.ContinueFrom(further=[pb.TokenIds(ids=[1])])
    with pytest.raises(InvalidField, match="further"):
        wishes.check(pb.GenerateRequest(continue_from=further), GENERATION)


def test_each_text_has_its_seed() -> None:
    request = pb.GenerateRequest(n=2, temperature=0.5)
    seeds = {wishes.sampling_of(request, GENERATION, 9, choice).seed for choice in range(2)}
    assert len(seeds) == 2
    assert 9 in seeds
