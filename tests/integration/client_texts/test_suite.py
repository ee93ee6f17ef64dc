"""Texts with the SDK and the command, from a gateway and two instances in processes of their own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import pytest
import pytest_asyncio

from tests.harness import Suite, serving
from tests.integration.commands import run
from tests.language_bundles import tiny_bundle
from trivium.client import Client, GenerateOptions, TriviumCallError
from trivium.client.language_commands import classify_text, generate, score

LANGUAGES = "langid-text"
GPT = "gpt"  # small, with random weights
PROMPT = "def the thing:\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def addresses(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[str]]:
    """Where a gateway and its two language instances listen; they serve GPT beside the default bundles."""
    folder = tmp_path_factory.mktemp("suite")
    tiny_bundle(folder / "bundles", "gpt", GPT)
    settings: dict[str, Any] = {"BUNDLES_DIR": folder / "bundles", "DEFAULT_MODEL": GPT}
    async with Suite.open(folder) as suite:
        gateway, *instances = await asyncio.gather(
            suite.start_gateway(),
            suite.start("language", "language-1", **settings),
            suite.start("language", "language-2", **settings),
        )
        await serving(gateway.address, f"model/{GPT}")
        yield [gateway.address, *(instance.address for instance in instances)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_real_service_writes_the_same_text_piece_by_piece_and_whole(addresses: list[str]) -> None:
    wish: dict[str, Any] = {"max_new_tokens": 200, "ignore_eos": True, "temperature": 0.9, "logprobs": 2}

    def ask() -> None:
        with Client(addresses[0]) as client:
            *others, last = client.generate(PROMPT, GPT, **wish)
            assert others  # a text of so many tokens takes longer than the machine keeps a process waiting
            assert (last.finish_reason, last.model) == ("length", f"{GPT}:1")
            whole = client.complete(PROMPT, seed=last.seed, **wish)
            assert "".join(piece.text for piece in (*others, last)) == whole.text
            assert tuple(token for piece in (*others, last) for token in piece.token_ids) == whole.token_ids
            assert (whole.usage.generated_tokens, len(whole.logprobs)) == (200, 200)
            assert {len(token.alternatives) for token in whole.logprobs} == {2}
            assert client.detokenize(whole.token_ids).text == whole.text
            scored = client.score(whole.token_ids, PROMPT)
            assert [token.token_id for token in scored.tokens] == list(whole.token_ids)
            made = [token.logprob for token in whole.logprobs]
            assert [token.logprob for token in scored.tokens] == pytest.approx(made, abs=1e-4)
            assert scored.logprob == pytest.approx(sum(made), abs=1e-2)

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_text_goes_on_at_another_instance_after_its_tokens(addresses: list[str]) -> None:
    def ask() -> None:
        gateway, first, second = (Client(address) for address in addresses)
        with gateway, first, second:
            wish: GenerateOptions = {"temperature": 1, "repetition_penalty": 1.2, "seed": 5, "max_new_tokens": 16}
            unbroken = gateway.complete(PROMPT, GPT, **wish)
            with closing(first.generate(PROMPT, GPT, **wish)) as pieces:
                before = next(pieces)
            rest: GenerateOptions = {**wish, "continue_from": before.token_ids}
            after = second.complete(PROMPT, GPT, **rest)
            assert before.token_ids + after.token_ids == unbroken.token_ids
            assert before.text + after.text == unbroken.text
            assert (after.finish_reason, after.usage) == (unbroken.finish_reason, unbroken.usage)

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_text_ends_where_it_was_told_to(addresses: list[str]) -> None:
    def ask() -> None:
        with Client(addresses[0]) as client:
            whole = client.complete(PROMPT, GPT, max_new_tokens=32)
            stop = whole.text[8:12]
            stopped = client.complete(PROMPT, GPT, max_new_tokens=32, stop=stop)
            assert (stopped.text, stopped.stop_string) == (whole.text[: whole.text.index(stop)], stop)
            assert (stopped.finish_reason, stopped.usage.generated_tokens) == ("stop", len(stopped.token_ids))
            echoed, other = client.completions(PROMPT, GPT, max_new_tokens=4, n=2, echo=True, temperature=2, seed=1)
            assert echoed.text.startswith(PROMPT)
            assert other.text.startswith(PROMPT)
            assert echoed.token_ids[: echoed.echoed] == other.token_ids[: other.echoed]
            assert (len(echoed.token_ids) - echoed.echoed, echoed.seed != other.seed) == (4, True)

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_text_is_cut_into_tokens_and_made_of_them_again(addresses: list[str]) -> None:
    def ask() -> None:
        with Client(addresses[0]) as client:
            text = "def 日本\n"
            cut = client.tokenize(text, GPT)
            assert {text[token.begin : token.end] for token in cut.tokens} >= {"def", "日", "\n"}
            assert client.detokenize(cut.token_ids, GPT).text == text
            assert (cut.model, cut.tokens[0].piece, len(cut.token_ids)) == (GPT, "def", len(cut.tokens))
            special = client.tokenize(text, GPT, add_special_tokens=True)
            assert special.token_ids[1:] == cut.token_ids

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_model_says_what_it_cannot_do(addresses: list[str]) -> None:
    def ask() -> None:
        with Client(addresses[0]) as client:
            most = client.model(GPT).max_tokens
            calls: list[tuple[str, Callable[[], object]]] = [
                ("UNSUPPORTED_BY_MODEL", lambda: client.classify_text("a", GPT)),
                ("UNSUPPORTED_BY_MODEL", lambda: client.embed_text("a", GPT)),
                ("MODEL_NOT_FOUND", lambda: client.complete("a", "nothing")),
                ("INVALID_FIELD", lambda: client.complete([2**32 - 1], GPT)),
                ("INVALID_FIELD", lambda: client.complete("a", GPT, top_p=1.5)),
                ("INVALID_FIELD", lambda: client.completions("a", GPT, n=9)),
                ("INPUT_TOO_LARGE", lambda: client.complete("a", GPT, max_new_tokens=most)),
            ]
            for reason, call in calls:
                with pytest.raises(TriviumCallError) as caught:
                    call()
                assert caught.value.reason == reason, caught.value

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_command_writes_what_a_real_service_says(addresses: list[str]) -> None:
    options = ("--address", addresses[0])
    code = await asyncio.to_thread(run, generate, "-", "--seed", "3", "--json", *options, stdin=PROMPT.encode())
    pieces = [json.loads(line) for line in code.stdout.splitlines()]
    assert sum(len(piece["token_ids"]) for piece in pieces) == pieces[-1]["usage"]["generated_tokens"] == 64
    scored = await asyncio.to_thread(run, score, "import os", *options)
    assert (scored.exit_code, "perplexity" in scored.stderr) == (0, True)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_language_of_a_phrase_is_named(addresses: list[str]) -> None:
    def ask() -> None:
        with Client(addresses[0]) as client:
            phrase = "Vi måste vänta här tills tåget från Göteborg kommer."
            answers = client.classify_text(phrase, LANGUAGES, top_k=3)
            assert (answers.label, len(answers.classes), answers.model) == ("sv", 3, LANGUAGES)
            assert client.classify_text(phrase).model == LANGUAGES  # the default writes, and has no classes
            assert len(client.embed_text(phrase, LANGUAGES).values) > 8
            calls: list[tuple[str, Callable[[], object]]] = [
                ("UNSUPPORTED_BY_MODEL", lambda: client.complete("a", LANGUAGES)),
                ("UNSUPPORTED_BY_MODEL", lambda: client.tokenize("a", LANGUAGES)),
                ("INVALID_FIELD", lambda: client.classify_text("", LANGUAGES)),
            ]
            for reason, call in calls:
                with pytest.raises(TriviumCallError) as caught:
                    call()
                assert caught.value.reason == reason, caught.value

    await asyncio.to_thread(ask)
    ended = await asyncio.to_thread(run, classify_text, "Where is my bicycle today?", "--address", addresses[0])
    assert (ended.exit_code, ended.stdout.splitlines()[1].split("\t")[1]) == (0, "en")
