"""The language service in processes of its own: a text gets the same bits alone and beside others, however it comes."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from services.kit.inference.bundle import Array, load
from services.language.graph import MOST_CANDIDATES
from services.language.sampling import seed_of, uniform
from services.language.training.graph_run import GraphRun
from tests.bundles import SCRIPTS
from tests.integration.test_triton_client import python
from tests.language_bundles import BEGIN, END, RECITED, tokenizer
from tests.language_suite import (
    LIMIT_S,
    WISHES,
    Running,
    beside,
)
from tests.texts import (
    LENGTH,
    STOP,
    STREAM_INFER,
    Caller,
    Written,
    infer_request,
    inferred,
)
from trivium.language.v1 import language_pb2 as pb
from trivium.models.v1 import models_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHARACTERS = tokenizer()
SAID: list[int] = CHARACTERS.encode(RECITED).ids
SENTENCE = RECITED.removesuffix(END)
ENDS, BEGINS = CHARACTERS.token_to_id(END), CHARACTERS.token_to_id(BEGIN)


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_a_text_is_the_same_alone_and_beside_others(
    running: Running, alone: dict[str, list[Written]], where: str
) -> None:
    caller = running.at(where)
    async with beside(caller, alone):
        found = await asyncio.gather(*(caller.texts(**wish) for wish in WISHES.values()))
        assert dict(zip(WISHES, found, strict=True)) == alone


async def test_it_writes_what_the_graph_alone_gives(running: Running, alone: dict[str, list[Written]]) -> None:
    bundle = load(running.folder / "gpt" / "1")
    graph = GraphRun((bundle.path / "model.onnx").read_bytes())
    for name in ("greedy", "drawn"):
        wish = WISHES[name]
        found = list(said_by_the_graph(graph, [BEGINS, *CHARACTERS.encode(wish["prompt"]).ids], wish))
        (text,) = alone[name]
        assert [token for token, _ in found] == text.tokens
        assert [logprob for _, logprob in found] == [logprob for _, logprob, _ in text.logprobs]


def said_by_the_graph(graph: GraphRun, prompt: list[int], wish: dict[str, Any]) -> Iterator[tuple[int, float]]:
    """The tokens that follow and their log-probabilities, one run for each."""
    greedy = not wish.get("temperature")
    cache, start, fed = graph.cache(1, 256), 0, prompt
    for _ in range(wish.get("max_new_tokens", 64)):
        draws: dict[str, Array] = {
            "temperature": np.array([wish.get("temperature", 1)], np.float32),
            "top_k": np.array([1 if greedy else wish["top_k"]], np.int64),
            "top_p": np.array([wish.get("top_p", 1)], np.float32),
            "min_p": np.array([wish.get("min_p", 0)], np.float32),
            "uniform": np.array([0 if greedy else uniform(wish["seed"], start + len(fed))], np.float32),
            "ranks": np.arange(MOST_CANDIDATES),
        }
        run = graph.step(cache, np.array([fed]), np.array([start]), np.array([len(fed) - 1]), **draws)
        start, fed = start + len(fed), run["token"].tolist()
        yield fed[0], float(run["logprob"][0])
        if fed[0] == ENDS:
            return


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_a_text_goes_on_after_any_of_its_tokens_with_the_same_bits(
    running: Running, alone: dict[str, list[Written]], where: str
) -> None:
    async def from_its_middle(name: str, part: float) -> None:
        texts = alone[name]
        seams = [text.seams[int(part * (len(text.seams) - 1))] for text in texts]
        given, *further = (text.tokens[:made] for text, (made, _) in zip(texts, seams, strict=True))
        more = pb.ContinueFrom(generated_token_ids=given, further=[pb.TokenIds(ids=ids) for ids in further])
        rest = await running.at("two" if where == "one" else where).texts(**WISHES[name], continue_from=more)
        assert rest == [text.since(seam) for text, seam in zip(texts, seams, strict=True)], (name, seams)

    await asyncio.gather(*(from_its_middle(name, part) for name in WISHES for part in (0, 0.3, 0.7, 0.95, 1)))


async def test_a_character_is_never_split(running: Running) -> None:
    for shift in (0, 3, 6, 24, 28):
        text = await running.gateway.text(model="recite", prompt_token_ids=[0] * (33 + shift), ignore_eos=True)
        assert text.tokens == (SAID * 4)[shift : shift + 64]
        assert text.text == CHARACTERS.decode(text.tokens)
        for made, characters in text.seams[:-1]:
            whole = CHARACTERS.decode(text.tokens[:made]).rstrip("\ufffd")  # what the tokens so far make
            assert text.text[:characters] == whole


async def test_what_is_no_character_is_said_when_that_is_certain(running: Running) -> None:
    cut = await running.one.text(model="recite", prompt_token_ids=[0] * 33, max_new_tokens=2)
    assert (cut.text, cut.tokens, cut.finish) == ("\ufffd", SAID[:2], LENGTH)
    assert await running.one.detokenize(SAID[:2], model="recite") == "\ufffd"


@pytest.mark.parametrize("name", WISHES)
async def test_the_text_is_that_of_the_tokens(running: Running, alone: dict[str, list[Written]], name: str) -> None:
    for text in alone[name]:
        model = WISHES[name].get("model", "gpt")
        decoded = await running.two.detokenize(text.tokens, model=model)
        if text.stop_string:
            assert decoded.startswith(text.text + text.stop_string)
        elif text.tokens[-1] in WISHES[name].get("stop_token_ids", ()):
            assert await running.two.detokenize(text.tokens[:-1], model=model) == text.text
        else:
            assert decoded == text.text


async def test_why_a_text_ended(running: Running, alone: dict[str, list[Written]]) -> None:
    ended = await running.one.text(model="recite", prompt="ab")
    assert (ended.finish, ended.text, ended.stop_string) == (STOP, CHARACTERS.decode(SAID[2:]), "")
    assert (ended.tokens, ended.generated_tokens) == (SAID[2:], len(SAID) - 2)
    (stopped,) = alone["stop strings"]  # its tokens are " the", " " and "e"
    assert (stopped.finish, stopped.stop_string) == (STOP, "he e")
    assert SENTENCE.endswith(SENTENCE[1 : SENTENCE.index("he e")] + SENTENCE[SENTENCE.index("he e") :])
    assert stopped.text == SENTENCE[1 : SENTENCE.index("he e")]
    assert CHARACTERS.decode(stopped.tokens).endswith("the e")
    newline = CHARACTERS.token_to_id("Ċ")
    halted = await running.one.text(model="recite", prompt="ab", stop_token_ids=[newline, 1])
    assert (halted.finish, halted.stop_string, halted.tokens[-1]) == (STOP, "", newline)
    assert halted.text == CHARACTERS.decode(SAID[2 : SAID.index(newline)])
    full = await running.one.text(model="recite", prompt="ab", max_new_tokens=5)
    assert (full.finish, full.generated_tokens, full.tokens) == (LENGTH, 5, SAID[2:7])
    (drawn,) = alone["stop tokens"]
    assert (drawn.finish, drawn.tokens[-1] % 16) == (STOP, 0)
    assert all(token % 16 or token > 255 for token in drawn.tokens[:-1])


async def test_usage_and_echo(running: Running) -> None:
    prompt = "三百 the"
    tokens = CHARACTERS.encode(prompt).ids
    for where in ("one", "gateway"):
        caller = running.at(where)
        plain = await caller.text(prompt=prompt, max_new_tokens=9)
        echoed = await caller.text(prompt=prompt, max_new_tokens=9, echo=True)
        assert (plain.prompt_tokens, plain.generated_tokens, plain.echoed) == (1 + len(tokens), 9, [])
        assert (echoed.echoed, echoed.text) == ([BEGINS, *tokens], prompt + plain.text)
        assert (echoed.tokens, echoed.prompt_tokens) == (plain.tokens, plain.prompt_tokens)
        both = await caller.texts(prompt_token_ids=tokens, max_new_tokens=3, echo=True, n=2, temperature=1, seed=1)
        for text in both:
            assert (text.echoed, text.text[: len(prompt)], text.prompt_tokens) == (tokens, prompt, len(tokens))
        source = await caller.text(model="translate", prompt=prompt, max_new_tokens=4)
        assert (source.prompt_tokens, source.generated_tokens) == (len(tokens) + 1, 4)


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_without_new_tokens_the_answer_is_the_end(running: Running, where: str) -> None:
    for wish in ({"prompt": "abc"}, {"prompt": "abc", "n": 2}, {"prompt": "x" * 255}):
        for text in await running.at(where).texts(**wish, max_new_tokens=0):
            assert (text.tokens, text.text, text.finish, text.generated_tokens) == ([], "", LENGTH, 0)
            assert text.prompt_tokens == 1 + len(str(wish["prompt"]))
    echoed = await running.at(where).text(prompt="abc", max_new_tokens=0, echo=True)
    assert (echoed.text, len(echoed.echoed), echoed.tokens) == ("abc", 4, [])


async def test_log_probabilities_are_those_of_the_model(running: Running, alone: dict[str, list[Written]]) -> None:
    for name, wish in WISHES.items():
        for text in alone[name]:
            if "logprobs" not in wish:
                assert text.logprobs == []
                continue
            assert [token for token, _, _ in text.logprobs] == text.tokens
            for _, _, others in text.logprobs:
                values = [value for _, value in others]
                assert (len(others), values) == (wish["logprobs"], sorted(values, reverse=True))
                assert np.exp(values).sum() <= 1.0001
    for token, logprob, others in alone["greedy"][0].logprobs:
        assert others[0] == (token, logprob)


@pytest.mark.parametrize("where", ["one", "gateway"])
@pytest.mark.parametrize("name", ["greedy", "drawn", "penalties", "a translation", "a long prompt"])
async def test_a_score_is_what_generate_said(
    running: Running, alone: dict[str, list[Written]], name: str, where: str
) -> None:
    (text,), wish = alone[name], WISHES[name]
    caller = running.at(where)
    model = wish.get("model", "gpt")
    scored = await caller.score(model=model, context=wish["prompt"], text_token_ids=text.tokens)
    assert [token.token_id for token in scored.tokens] == text.tokens
    assert [token.logprob for token in scored.tokens] == [logprob for _, logprob, _ in text.logprobs]
    assert scored.logprob == pytest.approx(sum(logprob for _, logprob, _ in text.logprobs))
    whole = await caller.score(model="recite", text=SENTENCE)  # whose first token has nothing before it
    assert [token.token_id for token in whole.tokens] == SAID[1:-1]
    assert -0.2 < whole.logprob / len(whole.tokens) < 0


async def test_each_of_several_texts_has_a_seed_that_gives_it_again(running: Running) -> None:
    wish: dict[str, Any] = {"prompt": "d", "temperature": 1.0, "max_new_tokens": 16, "logprobs": 1}
    for caller in (running.one, running.gateway):
        texts = await caller.texts(**wish, n=5)
        seeds = [text.seed for text in texts]
        assert seeds == [seed_of(seeds[0] or 0, choice) for choice in range(5)]
        assert len({tuple(text.tokens) for text in texts}) == 5
        for text in texts:
            assert await caller.text(**wish, seed=text.seed) == text
        other = await caller.text(**wish)
        assert (other.seed in seeds, other.tokens == texts[0].tokens) == (False, False)


async def test_the_end_waits_for_as_many_tokens_as_were_asked_for(running: Running) -> None:
    first = len(SAID) - 2  # where it would end
    text = await running.one.text(model="recite", prompt="ab", min_new_tokens=first + 4)
    assert text.tokens[: first - 1] == SAID[2:-1]
    assert ENDS not in text.tokens[: first + 3]
    assert (text.finish, text.tokens[-1], len(text.tokens)) == (STOP, ENDS, first + len(SAID))
    on = await running.one.text(model="recite", prompt="ab", ignore_eos=True, max_new_tokens=60)
    assert (on.tokens, on.finish) == ((SAID * 3)[2:62], LENGTH)
    late = await running.one.text(model="recite", prompt="ab", stop=["🙂"], min_new_tokens=15)
    assert (late.text, late.stop_string) == (CHARACTERS.decode(SAID[2:24]), "🙂")
    token = await running.one.text(model="recite", prompt="ab", stop_token_ids=[SAID[6]], min_new_tokens=9)
    assert SAID[6] not in token.tokens[:8]  # a token that ends the text may not come before, as the model's own end
    assert (token.finish, token.tokens[-1]) == (STOP, SAID[6])


async def test_a_bias_forces_a_token_and_forbids_one(running: Running) -> None:
    forced = await running.one.text(prompt="q", logit_bias={70: 100.0}, max_new_tokens=20, temperature=2.0, seed=1)
    assert forced.tokens == [70] * 20
    plain = await running.one.text(prompt="q", max_new_tokens=1)
    other = await running.one.text(prompt="q", max_new_tokens=1, logit_bias={plain.tokens[0]: -100.0})
    assert other.tokens != plain.tokens


async def test_penalties_do_what_they_say(running: Running) -> None:
    """The best logit of "recite" is 8 and all others are nearly 0: what comes can be told."""
    wish: dict[str, Any] = {"model": "recite", "prompt": "z", "max_new_tokens": 12}
    often = await running.one.text(**wish, logit_bias={65: 20.0, 66: 19.0}, frequency_penalty=2.0)
    assert often.tokens[:7] == [65, 66, 65, 66, 65, 66, 65]
    once = await running.one.text(**wish, logit_bias={65: 20.0, 66: 19.0}, presence_penalty=1.5)
    assert once.tokens == [65, 66, *[65] * 10]
    again = await running.one.text(
        model="recite", prompt="z the", repetition_penalty=10.0, logit_bias={65: 5.0}, max_new_tokens=40
    )
    seen, expected = set(CHARACTERS.encode("z the").ids), []
    for token in (SAID * 3)[2:42]:  # 8 becomes 0.8 where the prompt or the text has the token, and 65 has nearly 5
        expected.append(65 if token in seen else token)
        seen.add(token)
        if expected[-1] == ENDS:
            break
    assert again.tokens == expected


async def test_tokens_and_back(running: Running) -> None:
    text = "def 三百🙂(the): return 'thing'  # é"
    for caller in (running.one, running.gateway):
        plain = await caller.tokenize(text)
        assert list(plain.token_ids) == CHARACTERS.encode(text).ids
        assert await caller.detokenize(plain.token_ids) == text
        special = await caller.tokenize(text, add_special_tokens=True)
        assert list(special.token_ids) == [BEGINS, *plain.token_ids]
        assert (special.tokens[0].piece, special.tokens[0].begin, special.tokens[0].end) == (BEGIN, 0, 0)
        assert await caller.detokenize(special.token_ids) == text
        assert await caller.detokenize(special.token_ids, keep_special_tokens=True) == BEGIN + text
        source = await caller.tokenize(text, add_special_tokens=True, model="translate")
        assert list(source.token_ids) == [*plain.token_ids, ENDS]
        assert (source.tokens[-1].begin, source.tokens[-1].end) == (len(text), len(text))
        for token in plain.tokens:
            assert 0 <= token.begin < token.end <= len(text)
        assert [text[token.begin : token.end] for token in plain.tokens if token.piece == "ing"] == ["ing"]
        assert (await caller.tokenize("")).token_ids == []
        assert await caller.detokenize([]) == ""


async def test_classes_and_vectors_of_texts(running: Running) -> None:
    texts = {"latin": "Some words", "greek": "λογος", "han": "三百二十一", "mixed": "ab三"}
    for caller in (running.one, running.gateway):
        for script in SCRIPTS:
            (best,) = (await caller.classify(model="scripts", text=texts[script], top_k=1)).classes
            assert (best.label, best.index) == (script, list(SCRIPTS).index(script))
            assert best.probability > 0.99
        ranked = (await caller.classify(model="scripts", text=texts["mixed"])).classes
        assert [one.label for one in ranked] == ["latin", "han", "greek"]
        assert sum(one.probability for one in ranked) == pytest.approx(1)
        assert await caller.embed(model="scripts", text=texts["mixed"]) == pytest.approx([2 / 3, 0, 1 / 3])
        many = await asyncio.gather(*(caller.embed(model="scripts", text="a" * (1 + n) + "三") for n in range(40)))
        assert many == [await running.two.embed(model="scripts", text="a" * (1 + n) + "三") for n in range(40)]


PHRASES = {
    "langid-text": {"en": "Please enter a valid email address.", "de": "Bitte geben Sie eine gültige Adresse ein."}
    | {
        "fr": "Veuillez saisir une adresse valide.",
        "zh": "请输入一个有效的电子邮件地址。",
        "ru": "Введите правильный адрес.",
    },
    "topics-zh": {
        "天气": "北京明天有大雨，出门记得带伞",
        "体育": "昨晚的足球比赛踢得很精彩",
        "财经": "今天股票又涨了不少",
    },
}


@pytest.mark.parametrize("where", ["one", "gateway"])
@pytest.mark.parametrize("name", PHRASES)
async def test_the_classifiers_that_come_along_know_plain_phrases(running: Running, name: str, where: str) -> None:
    caller = running.at(where)
    for label, text in PHRASES[name].items():
        ranked = (await caller.classify(model=name, text=text)).classes
        assert (ranked[0].label, len(ranked)) == (label, 5)
        assert len(await caller.embed(model=name, text=text)) > 8


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
    script = str(Path(__file__).with_name("triton_texts.py"))
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
