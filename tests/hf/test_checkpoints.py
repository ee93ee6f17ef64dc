"""Checkpoints of every family that can be brought along: the graph writes what `transformers` writes with them."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from services.kit.inference import bundle as bundles
from services.language.training.graph_check import graph_log_probabilities
from services.language.training.graph_run import GraphRun, padded
from tests.hf.checkpoints import VOCAB
from tests.hf.pairs import NEW, PROMPTS, Pair, tokens


@pytest.fixture
def run(pair: Pair) -> GraphRun:
    """The bundle's graph, without the service."""
    bundles.verify_files(pair.bundle)
    return GraphRun((pair.bundle.path / bundles.MODEL).read_bytes())


def prompts(pair: Pair) -> list[list[int]]:
    return [tokens(pair.bundle, pair.generation, text) for text in PROMPTS]


def test_prompts_become_the_same_tokens(pair: Pair) -> None:
    theirs = AutoTokenizer.from_pretrained(pair.checkpoint)
    assert prompts(pair) == [theirs(text).input_ids for text in PROMPTS]


def test_greedy_texts_are_those_of_transformers_token_for_token(pair: Pair, run: GraphRun) -> None:
    assert run.continued(prompts(pair), NEW, pair.generation.end) == pair.texts
    assert len({token for text in pair.texts for token in text}) > 40  # they are no dull texts


def test_a_text_ends_with_the_tokens_that_the_checkpoint_names(pair: Pair, run: GraphRun) -> None:
    assert list(pair.generation.end) == pair.model.generation_config.eos_token_id
    (text,) = run.continued([[5, 6, 7]], 30, pair.generation.end)
    assert text[-1] == pair.generation.end[0]
    assert len(text) <= 8


def test_log_probabilities_of_all_tokens_are_those_of_transformers(pair: Pair, run: GraphRun) -> None:
    texts = prompts(pair)[-4:]
    chosen = np.broadcast_to(np.arange(VOCAB), (*padded(texts).shape, VOCAB))
    got = graph_log_probabilities(run, texts, chosen, 32)
    for row, text in enumerate(texts):
        with torch.no_grad():
            wanted = torch.log_softmax(pair.model(torch.tensor([text])).logits[0], -1).numpy()
        assert np.abs(got[row, : len(text)] - wanted).max() < 1e-4
