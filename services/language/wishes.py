"""Wishes: what a GenerateRequest asks for, checked."""

from typing import Any

from services.kit.errors import InputTooLarge, InvalidField
from services.kit.inference.manifest import Generation
from services.language import graph
from services.language.sampling import Sampling, seed_of
from trivium.language.v1 import language_pb2 as pb

MAX_TEXTS = 8
MAX_STOPS, MAX_STOP_CHARACTERS, MAX_STOP_TOKENS, MAX_BIASES = 16, 256, 16, 256
# Fields whose value must lie in a range: (lowest, highest, whether the lowest itself is out of it).
RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0, 100, False),
    "top_k": (0, graph.MOST_CANDIDATES, False),
    "top_p": (0, 1, True),
    "min_p": (0, 1, False),
    "repetition_penalty": (0, 10, True),
    "presence_penalty": (-2, 2, False),
    "frequency_penalty": (-2, 2, False),
    "logprobs": (0, graph.MOST_ALTERNATIVES, False),
    "n": (1, MAX_TEXTS, False),
    "priority": (-100, 100, False),
}


def sampling_of(request: pb.GenerateRequest, generation: Generation, seed: int, choice: int) -> Sampling:
    """How the text number `choice` is written; the request has been checked."""
    plain = {
        name: getattr(request, name)
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
        if request.HasField(name)
    }
    return Sampling(
        **plain,
        logit_bias=dict(request.logit_bias),
        seed=seed_of(seed, choice),
        ignore_eos=request.ignore_eos,
        min_new_tokens=request.min_new_tokens,
        stop=tuple(dict.fromkeys(request.stop)),
        stop_token_ids=frozenset(request.stop_token_ids),
        alternatives=min(request.logprobs, generation.vocab) if request.HasField("logprobs") else None,
    )


def check(request: pb.GenerateRequest, generation: Generation) -> None:
    """Whether the request can be met by this model.

    Raises:
        InvalidField: says which field, its limit and what it is.
    """
    _check_ranges(request)
    _check_count("stop", len(request.stop), MAX_STOPS)
    for index, text in enumerate(request.stop):
        if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
            raise _invalid(f"stop[{index}]", f"1 to {MAX_STOP_CHARACTERS} characters", f"{len(text)} characters")
    _check_count("stop_token_ids", len(request.stop_token_ids), MAX_STOP_TOKENS)
    check_tokens("stop_token_ids", request.stop_token_ids, generation)
    _check_count("logit_bias", len(request.logit_bias), MAX_BIASES)
    for token, bias in sorted(request.logit_bias.items()):
        if token >= generation.vocab:
            name = f"logit_bias[{token}]"
            raise _invalid(f"the token of {name}", f"[0, {generation.vocab - 1}]", token, field=name)
        if not -100 <= bias <= 100:
            raise _invalid(f"logit_bias[{token}]", "[-100, 100]", bias)
    _check_continuation(request, generation)


def _check_ranges(request: Any) -> None:
    for name, (low, high, excluded) in RANGES.items():
        value = getattr(request, name)
        if request.HasField(name) and not (low <= value <= high and (value > low or not excluded)):
            raise _invalid(name, f"{'(' if excluded else '['}{low}, {high}]", value)


def check_tokens(field: str, tokens: Any, generation: Generation) -> None:
    """Whether all of them are in the vocabulary.

    Raises:
        InvalidField
    """
    for index, token in enumerate(tokens):
        if token >= generation.vocab:
            raise _invalid(f"{field}[{index}]", f"[0, {generation.vocab - 1}]", token)


def _check_continuation(request: pb.GenerateRequest, generation: Generation) -> None:
    if not request.HasField("continue_from"):
        return
    given, texts = request.continue_from, request.n or 1
    if len(given.further) >= texts:
        raise _invalid("continue_from.further", f"at most {texts - 1} where n is {texts}", len(given.further))
    named = [("continue_from.generated_token_ids", given.generated_token_ids)]
    named += [(f"continue_from.further[{index}].ids", further.ids) for index, further in enumerate(given.further)]
    for field, tokens in named:
        if len(tokens) > generation.max_tokens:  # before each of them is looked at
            raise InputTooLarge(
                f"{field} has {len(tokens)} tokens and this model takes {generation.max_tokens}",
                field=field,
                limit=str(generation.max_tokens),
                value=str(len(tokens)),
            )
        check_tokens(field, tokens, generation)
    if request.temperature > 0 and not request.HasField("seed"):
        raise InvalidField(
            "continue_from needs the seed of the text where the temperature is not 0: the first answer told it",
            field="seed",
            value="unset",
        )


def _check_count(field: str, count: int, limit: int) -> None:
    if count > limit:
        raise _invalid(field, f"at most {limit} entries", f"{count} entries")


def _invalid(said: str, limit: str, value: object, field: str = "") -> InvalidField:
    """Of a field that is called as it is said, unless `field` says otherwise."""
    message = f"{said} is {value}, and must be {_worded(limit)}"
    return InvalidField(message, field=field or said, limit=limit, value=str(value))


def _worded(limit: str) -> str:
    return f"in {limit}" if limit[0] in "[(" else limit
