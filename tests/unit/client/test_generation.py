"""Generation: what a caller asks of a text arrives in the message."""

from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from trivium.client.generation import GenerateOptions, generate_request
from trivium.language.v1.language_pb2 import GenerateRequest

EVERYTHING: GenerateOptions = {
    "max_new_tokens": 0,
    "temperature": 0.5,
    "top_k": np.int64(5),
    "top_p": 0.75,
    "min_p": 0,
    "repetition_penalty": 1.5,
    "presence_penalty": -1,
    "frequency_penalty": 0.25,
    "stop": ["\n\n", "def"],
    "seed": 2**64 - 1,
    "logprobs": 0,
    "ignore_eos": True,
    "min_new_tokens": 2,
    "n": 3,
    "echo": True,
    "stop_token_ids": (5, 6),
    "logit_bias": {7: -100, 8: 0.5},
    "priority": -100,
    "continue_from": [[1, 2], [], [3]],
}


def test_every_option_has_its_field_and_every_field_its_option() -> None:
    assert set(EVERYTHING) == set(GenerateOptions.__annotations__)
    fields = {field.name for field in GenerateRequest.DESCRIPTOR.fields}
    assert fields == set(GenerateOptions.__annotations__) | {"model", "prompt", "prompt_token_ids"}


def test_every_option_arrives() -> None:
    message = generate_request("def", "python-gpt@stable", EVERYTHING)
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert found == {
        **EVERYTHING,
        "model": "python-gpt@stable",
        "prompt": "def",
        "seed": str(2**64 - 1),
        "stop_token_ids": [5, 6],
        "logit_bias": {"7": -100, "8": 0.5},
        "continue_from": {"generated_token_ids": [1, 2], "further": [{}, {"ids": [3]}]},
    }


def test_what_is_not_given_is_left_to_the_service() -> None:
    assert generate_request("def", "", {}) == GenerateRequest(prompt="def")
    nothing: Any = dict.fromkeys(GenerateOptions.__annotations__)
    assert generate_request("def", "", nothing) == GenerateRequest(prompt="def")
    assert generate_request("def", "", {"continue_from": []}) == GenerateRequest(prompt="def")


def test_tokens_take_the_place_of_the_prompt() -> None:
    message = generate_request(np.array([4, 5]), "", {"continue_from": np.array([6, 7]), "stop": "x"})
    assert (message.prompt, list(message.prompt_token_ids), list(message.stop)) == ("", [4, 5], ["x"])
    assert list(message.continue_from.generated_token_ids) == [6, 7]


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"max_tokens": 5}, TypeError, "there is no option max_tokens; did you mean max_new_tokens?"),
        ({"timeout": 5}, TypeError, "there is no option timeout; did you mean timeout_s?"),
        ({"max_new_tokens": -1}, ValueError, "max_new_tokens is in"),
        ({"max_new_tokens": 2.5}, TypeError, "max_new_tokens is a whole number, not 2.5"),
        ({"temperature": "hot"}, TypeError, "temperature is a number, not 'hot'"),
        ({"seed": 2**64}, ValueError, "seed is in"),
        ({"seed": -1}, ValueError, "seed is in"),
        ({"priority": 101}, ValueError, r"priority is in \[-100, 100\], not 101"),
        ({"stop": [b"x"]}, TypeError, "stop is a text, not b'x'"),
        ({"logit_bias": {"a": 1}}, TypeError, "logit_bias"),
        ({"logit_bias": {5: "a"}}, TypeError, r"logit_bias\[5\] is a number"),
        ({"continue_from": [[1], "ab"]}, TypeError, r"continue_from\[1\] is a list of tokens"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        generate_request("def", "", options)
