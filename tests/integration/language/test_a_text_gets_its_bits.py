"""A text gets the bits that the graph alone gives, alone and beside others, from its beginning and from any token."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from services.kit.inference.bundle import Array, load
from services.language.graph import MOST_CANDIDATES
from services.language.sampling import seed_of, uniform
from services.language.training.graph_run import GraphRun
from tests.integration.language.recited import BEGINS, CHARACTERS, ENDS, SAID, SENTENCE
from tests.language_suite import WISHES, Running, beside
from tests.texts import Written
from trivium.language.v1 import language_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="package")


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
