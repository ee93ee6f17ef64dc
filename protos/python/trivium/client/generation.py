"""Generation: what a caller may ask of a text that is to be written, and the message that asks it."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat, SupportsIndex, TypedDict

from trivium.client.prompts import Prompt, real, split, text, texts, tokens
from trivium.client.values import limited
from trivium.language.v1.language_pb2 import ContinueFrom, GenerateRequest, TokenIds

LARGEST_SEED = 2**64 - 1
HIGHEST_PRIORITY = 100


class GenerateOptions(TypedDict, total=False):
    """How a text is written. What is not given, or None, is the service's choice, which is named here.

    Attributes:
        max_new_tokens: tokens to make at most; 64, or fewer where the model takes no more.
        temperature: in [0, 100]; 0, which takes the most probable token, ever.
        top_k: draw among so many most probable tokens, in [0, 64]; 0 is 64, the most that are ever
            drawn from.
        top_p: draw among the fewest tokens whose probabilities sum to this, in (0, 1]; 1.
        min_p: leave out tokens less probable than this part of the most probable one, in [0, 1]; 0.
        repetition_penalty: divides the positive and multiplies the negative logits of tokens that the prompt or the
            text has, in (0, 10]; 1.
        presence_penalty: taken from the logits of tokens that the text has, in [-2, 2]; 0.
        frequency_penalty: taken from the logits of tokens as many times as the text has them, in [-2, 2]; 0.
        stop: strings that end the text and are not part of it, at most 16 of 1 to 256 characters; one may be given
            alone.
        seed: of the draws, in [0, 2^64); one that is drawn then, which every piece tells.
        logprobs: ask for the log-probabilities of the tokens made and of so many alternatives for each, in [0, 20].
        ignore_eos: go on where the model would end the text.
        min_new_tokens: tokens before which nothing but `max_new_tokens` ends the text; 0.
        n: texts to write from the prompt, in [1, 8]; 1.
        echo: whether the first piece of each text brings the prompt before it.
        stop_token_ids: tokens that end the text as the model's own end does, at most 16.
        logit_bias: by token, what is added to its logits, in [-100, 100]; at most 256 of them.
        priority: which of the waiting texts begin first: higher ones, in [-100, 100]; 0.
        continue_from: go on after these tokens, which the same request has made before; the pieces begin with what
            comes after them. Where `n` is more than 1, a list of tokens for each text. Needs `seed` where the
            temperature is not 0.
    """

    max_new_tokens: SupportsIndex | None
    temperature: SupportsFloat | None
    top_k: SupportsIndex | None
    top_p: SupportsFloat | None
    min_p: SupportsFloat | None
    repetition_penalty: SupportsFloat | None
    presence_penalty: SupportsFloat | None
    frequency_penalty: SupportsFloat | None
    stop: str | Iterable[str] | None
    seed: SupportsIndex | None
    logprobs: SupportsIndex | None
    ignore_eos: bool
    min_new_tokens: SupportsIndex | None
    n: SupportsIndex | None
    echo: bool
    stop_token_ids: Iterable[SupportsIndex] | None
    logit_bias: Mapping[int, SupportsFloat] | None
    priority: SupportsIndex | None
    continue_from: Iterable[SupportsIndex] | Iterable[Iterable[SupportsIndex]] | None


COUNTS = ("max_new_tokens", "top_k", "logprobs", "min_new_tokens", "n")
NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


def generate_request(prompt: Prompt, model: str, options: GenerateOptions) -> GenerateRequest:
    """The message that asks for a text. Whether the model can do it is for the service to say.

    Raises:
        TypeError: an option that there is not, or one of a wrong type.
        ValueError: something that no message can hold.
    """
    _check_names(options)
    words, ids = split("prompt", prompt)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    counts: dict[str, Any] = {name: limited(name, given.get(name), least=0) for name in COUNTS}
    numbers: dict[str, Any] = {name: real(name, given.get(name)) for name in NUMBERS}
    return GenerateRequest(
        model=text("model", model),
        prompt=words,
        prompt_token_ids=ids,
        **counts,
        **numbers,
        stop=texts("stop", given.get("stop", ())),
        seed=limited("seed", given.get("seed"), LARGEST_SEED, least=0),
        ignore_eos=given.get("ignore_eos", False),
        echo=given.get("echo", False),
        stop_token_ids=tokens("stop_token_ids", given.get("stop_token_ids", ())),
        logit_bias=_biases(given.get("logit_bias", {})),
        priority=limited("priority", given.get("priority"), HIGHEST_PRIORITY, least=-HIGHEST_PRIORITY),
        continue_from=_continued(given.get("continue_from", ())),
    )


def _check_names(options: Mapping[str, object]) -> None:
    for name in options:
        if name not in GenerateOptions.__annotations__:
            known = ("timeout_s", *GenerateOptions.__annotations__)
            near = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"there is no option {name}" + (f"; did you mean {near[0]}?" if near else ""))


def _biases(biases: Mapping[int, SupportsFloat]) -> dict[int, Any]:
    places = tokens("logit_bias", biases)
    return {token: real(f"logit_bias[{token}]", value) for token, value in zip(places, biases.values(), strict=True)}


def _continued(made: Iterable[Any]) -> ContinueFrom | None:
    found = list(made)
    if not found:
        return None
    if not any(isinstance(item, Iterable) for item in found):
        return ContinueFrom(generated_token_ids=tokens("continue_from", found))
    first, *others = [tokens(f"continue_from[{place}]", ids) for place, ids in enumerate(found)]
    return ContinueFrom(generated_token_ids=first, further=[TokenIds(ids=ids) for ids in others])
