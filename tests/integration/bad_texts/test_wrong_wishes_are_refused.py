"""A text that cannot be written as it was asked for is refused, and its caller told which wish was wrong."""

import asyncio
import math
from typing import Any

import grpc
import pytest

from tests.integration.bad_texts.places import VOCAB, Place, Refusal, invalid, refusal, too_large
from tests.texts import rest
from trivium.language.v1 import language_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="package")
MAX_TOKENS, MAX_SOURCE = 256, 64
NAN, INFINITY = math.nan, math.inf


async def generate_refused(place: Place, **fields: Any) -> Refusal:
    """Why such a Generate was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(place.caller.call(pb.GenerateRequest(**fields)))
    return refusal(caught.value)


# Each of them is wrong by itself; the prompt is a good one where none is given.
WRONG: dict[str, tuple[dict[str, Any], Refusal]] = {
    "no prompt": ({"model": "recite", "prompt": ""}, invalid("prompt")),
    "no source": ({"model": "translate", "prompt_token_ids": [], "prompt": ""}, invalid("prompt")),
    "both prompts": ({"prompt": "a", "prompt_token_ids": [1]}, invalid("prompt")),
    "a token too high": ({"prompt": "", "prompt_token_ids": [1, VOCAB]}, invalid("prompt_token_ids[1]")),
    "the highest number": ({"prompt": "", "prompt_token_ids": [2**32 - 1]}, invalid("prompt_token_ids[0]")),
    "more tokens at least than at most": ({"min_new_tokens": 65}, invalid("min_new_tokens")),
    "temperature NaN": ({"temperature": NAN}, invalid("temperature")),
    "temperature infinite": ({"temperature": INFINITY}, invalid("temperature")),
    "temperature below 0": ({"temperature": -0.1}, invalid("temperature")),
    "temperature above 100": ({"temperature": 100.5}, invalid("temperature")),
    "top_k": ({"top_k": 65}, invalid("top_k")),
    "top_p 0": ({"top_p": 0.0}, invalid("top_p")),
    "top_p above 1": ({"top_p": 1.5}, invalid("top_p")),
    "top_p NaN": ({"top_p": NAN}, invalid("top_p")),
    "min_p": ({"min_p": 1.1}, invalid("min_p")),
    "min_p NaN": ({"min_p": NAN}, invalid("min_p")),
    "repetition_penalty 0": ({"repetition_penalty": 0.0}, invalid("repetition_penalty")),
    "repetition_penalty NaN": ({"repetition_penalty": NAN}, invalid("repetition_penalty")),
    "repetition_penalty above 10": ({"repetition_penalty": 10.5}, invalid("repetition_penalty")),
    "presence_penalty": ({"presence_penalty": 2.5}, invalid("presence_penalty")),
    "presence_penalty NaN": ({"presence_penalty": NAN}, invalid("presence_penalty")),
    "frequency_penalty": ({"frequency_penalty": -2.5}, invalid("frequency_penalty")),
    "frequency_penalty infinite": ({"frequency_penalty": -INFINITY}, invalid("frequency_penalty")),
    "stops": ({"stop": [str(number) for number in range(17)]}, invalid("stop")),
    "an empty stop": ({"stop": ["a", ""]}, invalid("stop[1]")),
    "a long stop": ({"stop": ["a" * 257]}, invalid("stop[0]")),
    "stop tokens": ({"stop_token_ids": range(17)}, invalid("stop_token_ids")),
    "a stop token too high": ({"stop_token_ids": [VOCAB]}, invalid("stop_token_ids[0]")),
    "logprobs": ({"logprobs": 21}, invalid("logprobs")),
    "n 0": ({"n": 0}, invalid("n")),
    "n 9": ({"n": 9}, invalid("n")),
    "biases": ({"logit_bias": dict.fromkeys(range(257), 1.0)}, invalid("logit_bias")),
    "a bias too large": ({"logit_bias": {7: 100.5}}, invalid("logit_bias[7]")),
    "a bias that is NaN": ({"logit_bias": {7: NAN}}, invalid("logit_bias[7]")),
    "a bias of a token too high": ({"logit_bias": {VOCAB: 1.0}}, invalid(f"logit_bias[{VOCAB}]")),
    "priority too high": ({"priority": 101}, invalid("priority")),
    "priority too low": ({"priority": -101}, invalid("priority")),
    "continue_from a token too high": (
        {"continue_from": pb.ContinueFrom(generated_token_ids=[VOCAB])},
        invalid("continue_from.generated_token_ids[0]"),
    ),
    "continue_from more texts than n": (
        {"continue_from": pb.ContinueFrom(generated_token_ids=[1], further=[pb.TokenIds(ids=[1])])},
        invalid("continue_from.further"),
    ),
    "continue_from without a seed": (
        {"continue_from": pb.ContinueFrom(generated_token_ids=[1]), "temperature": 1.0},
        invalid("seed"),
    ),
    "continue_from more than new tokens": (
        {"continue_from": pb.ContinueFrom(generated_token_ids=[1, 2, 3]), "max_new_tokens": 2},
        too_large("continue_from"),
    ),
    "a name that is none": ({"model": "gpt:zero"}, invalid("model")),
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_wrong_wish_is_refused_and_says_which(place: Place, how: str) -> None:
    fields, expected = WRONG[how]
    assert await generate_refused(place, **{"prompt": "good", **fields}) == expected


async def test_after_all_of_that_the_neighbours_are_well(place: Place) -> None:
    await asyncio.gather(*(generate_refused(place, **{"prompt": "good", **fields}) for fields, _ in WRONG.values()))
    await place.neighbours_are_well()


async def test_values_at_their_limits_are_taken(place: Place) -> None:
    good: tuple[dict[str, Any], ...] = (
        {"temperature": 100.0, "top_k": 64, "top_p": 1.0, "min_p": 1.0},
        {"temperature": 1e-45, "top_k": 0, "top_p": 1e-45, "min_p": 0.0},
        {"repetition_penalty": 10.0, "presence_penalty": 2.0, "frequency_penalty": -2.0, "temperature": 1.0},
        {"repetition_penalty": 1e-45, "temperature": 1.0},
        {"stop": [str(number) * 128 for number in range(10, 26)], "stop_token_ids": range(16)},
        {"logprobs": 20, "n": 8, "temperature": 1.0},
        {"logit_bias": dict.fromkeys(range(1, 257), -100.0), "priority": 100},
        {"min_new_tokens": 5, "priority": -100},
        {"seed": 2**64 - 1, "temperature": 1.0},
    )
    for fields in good:
        for text in await place.caller.texts(prompt="good", max_new_tokens=5, **fields):
            assert len(text.tokens) <= 5
    await place.neighbours_are_well()


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
async def test_a_prompt_below_at_and_over_the_limit(place: Place, tokens: bool) -> None:
    begin, field = (0, "prompt_token_ids") if tokens else (1, "prompt")  # a text gets a beginning

    def prompt(count: int, **fields: Any) -> dict[str, Any]:
        own = {"prompt_token_ids": [97] * count} if tokens else {"prompt": "a" * (count - begin)}
        return {**own, "seed": 1, **fields}

    below = await place.caller.text(**prompt(MAX_TOKENS - 1))
    assert (below.prompt_tokens, len(below.tokens)) == (MAX_TOKENS - 1, 1)
    at = await place.caller.text(**prompt(MAX_TOKENS))
    assert (at.prompt_tokens, at.tokens, at.text) == (MAX_TOKENS, [], "")
    assert await generate_refused(place, **prompt(MAX_TOKENS + 1)) == too_large(field)
    assert await generate_refused(place, **prompt(100_000)) == too_large(field)
    assert await generate_refused(place, **prompt(MAX_TOKENS - 1, max_new_tokens=2)) == too_large("max_new_tokens")
    assert await generate_refused(place, **prompt(MAX_TOKENS, max_new_tokens=1)) == too_large("max_new_tokens")
    assert await generate_refused(place, **prompt(2, max_new_tokens=2**32 - 1)) == too_large("max_new_tokens")
    whole = await place.caller.text(**prompt(2, max_new_tokens=MAX_TOKENS - 2, ignore_eos=True))
    assert len(whole.tokens) == MAX_TOKENS - 2
    await place.neighbours_are_well()


async def test_a_source_text_has_a_limit_of_its_own(place: Place) -> None:
    fits = await place.caller.text(model="translate", prompt="a" * (MAX_SOURCE - 1), max_new_tokens=3)
    assert fits.prompt_tokens == MAX_SOURCE
    too_long, tokens = "a" * MAX_SOURCE, [97] * (MAX_SOURCE + 1)
    assert await generate_refused(place, model="translate", prompt=too_long) == too_large("prompt")
    assert await generate_refused(place, model="translate", prompt_token_ids=tokens) == too_large("prompt_token_ids")
    late = await generate_refused(place, model="translate", prompt="a", max_new_tokens=MAX_SOURCE)
    assert late == too_large("max_new_tokens")
