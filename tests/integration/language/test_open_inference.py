"""Texts by the Open Inference Protocol are those of Generate."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference import grpc_service_pb2 as oip
from tests.harness import ROOT
from tests.integration.test_triton_client import python
from tests.language_suite import LIMIT_S, Running
from tests.texts import STOP, STREAM_INFER, Caller, infer_request, inferred
from trivium.models.v1 import models_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


def tensors(response: oip.ModelInferResponse) -> tuple[str, list[int], str]:
    text, tokens = inferred(response)
    return text, tokens, response.parameters["finish_reason"].string_param


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_the_open_inference_protocol_gives_the_text_of_generate(running: Running, where: str) -> None:
    caller = running.at(where)
    wishes: list[dict[str, Any]] = [
        {"temperature": 0.9, "seed": 4, "top_k": 50, "top_p": 0.95, "min_p": 0.01},
        {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.5, "min_new_tokens": 5},
        {"stop": "e", "ignore_eos": True, "temperature": 1.0, "seed": 12},
    ]
    for wish in wishes:
        text = await caller.text(
            prompt="e三", max_new_tokens=30, **{**wish, "stop": [wish["stop"]]} if "stop" in wish else wish
        )
        response = await caller.infer("gpt", "e三", 30, **wish)
        reason = "STOP" if text.finish == STOP else "LENGTH"
        assert tensors(response) == (text.text, text.tokens, reason)
        assert response.parameters["generated_tokens"].string_param == str(text.generated_tokens)
        assert response.parameters["prompt_tokens"].string_param == "5"
        pieces = [piece async for piece in streamed(caller, "gpt", "e三", 30, **wish)]
        finals = [piece.parameters["triton_final_response"].bool_param for piece in pieces]
        assert finals == [False] * (len(pieces) - 1) + [True]
        found = [inferred(piece) for piece in pieces]
        assert "".join(part for part, _ in found) == text.text
        assert [token for _, tokens in found for token in tokens] == text.tokens
        assert pieces[-1].parameters["finish_reason"].string_param == reason


async def streamed(caller: Caller, *given: Any, **parameters: Any) -> AsyncIterator[oip.ModelInferResponse]:
    call: Any = caller.channel.stream_stream(STREAM_INFER)(timeout=LIMIT_S)
    await call.write(infer_request(*given, **parameters).SerializeToString())
    await call.done_writing()
    async for data in call:
        answer = oip.ModelStreamInferResponse.FromString(data)
        assert answer.error_message == ""
        yield answer.infer_response


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_the_open_inference_protocol_goes_on_from_any_token(running: Running, where: str) -> None:
    """Through characters of several tokens and beginnings of stop strings, of which nothing was sent before."""
    caller = running.at(where)
    asked, wish = ("recite", "abc", 40), {"stop": "re: 🙂🙂", "seed": 3, "ignore_eos": True}
    pieces = [inferred(piece) async for piece in streamed(caller, *asked, **wish)]
    whole, tokens = "".join(text for text, _ in pieces), [token for _, tokens in pieces for token in tokens]
    seams = {0: ""}  # the text after so many tokens
    for text, made in pieces:
        seams[max(seams) + len(made)] = seams[max(seams)] + text
    assert len(tokens) > 15
    for had in range(len(tokens) + 1):
        given = ",".join(map(str, tokens[:had]))
        rest = [inferred(piece) async for piece in streamed(caller, *asked, continue_from=given, **wish)]
        assert [token for _, made in rest for token in made] == tokens[had:]
        text = "".join(text for text, _ in rest)
        assert whole.endswith(text)
        assert had not in seams or seams[had] + text == whole


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_an_unmodified_tritonclient_streams_a_text(running: Running, where: str) -> None:
    address = running.replicas[0].address if where == "one" else running.gateway_replica.address
    script = str(ROOT / "tests" / "integration" / "triton_texts.py")
    seen = json.loads(await python(script, address))
    assert len(seen["texts"]) == 3
    for asked, whole, stream in zip(seen["wishes"], seen["texts"], seen["streams"], strict=True):
        fields = {name: value for name, value in asked["parameters"].items() if name != "stop"}
        stop = [asked["parameters"]["stop"]] if "stop" in asked["parameters"] else []
        text = await running.two.text(
            model=asked["model"], prompt=asked["text"], max_new_tokens=asked["max_tokens"], stop=stop, **fields
        )
        assert (whole["text"], whole["tokens"]) == (text.text, text.tokens)
        assert "".join(piece["text"] for piece in stream) == text.text
        assert [token for piece in stream for token in piece["tokens"]] == text.tokens
        assert [piece["final"] for piece in stream] == [False] * (len(stream) - 1) + [True]
    assert max(map(len, seen["streams"])) > 1
    assert seen["decoupled"] is True
    assert seen["classes"][0].split(":")[2] == "han"
    assert seen["refused"][0] == "StatusCode.INVALID_ARGUMENT"
    assert "unheard_of" in seen["refused"][1]
    assert "unheard_of" in seen["stream_error"]


async def test_a_model_says_that_it_writes_and_how_far(running: Running) -> None:
    for caller in (running.one, running.gateway):
        data = await caller.unary("/trivium.models.v1.ModelService/ListModels", b"")
        found = {model.name: model for model in models_pb2.ListModelsResponse.FromString(data).models}
        assert {
            name: (found[name].task, found[name].max_tokens) for name in ("gpt", "novel", "translate", "scripts")
        } == {
            "gpt": ("text-generation", 256),
            "novel": ("text-generation", 512),
            "translate": ("text-to-text", 64),
            "scripts": ("text-classification", 0),
        }
        assert [(spec.name, spec.datatype, list(spec.shape)) for spec in found["gpt"].inputs] == [
            ("text_input", "BYTES", [1]),
            ("max_tokens", "INT32", [1]),
        ]
        assert [spec.name for spec in found["gpt"].outputs] == ["text_output", "token_ids"]
        assert len(found["gpt"].answers_digest) == 16
