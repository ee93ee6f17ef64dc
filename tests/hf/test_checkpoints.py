"""Checkpoints of every family that can be brought along write what `transformers` writes with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from services.kit.inference import bundle as bundles
from services.kit.inference.manifest import Generation
from services.language.training.commands import export
from services.language.training.graph_check import graph_log_probabilities
from services.language.training.graph_run import GraphRun, padded
from tests.hf.checkpoints import CASES, VOCAB, Case, make

PROMPTS = tuple(
    text[:length]
    for length in (1, 3, 8, 14, 20)
    for text in (
        "The thing in the beginning, before anything else was there at all.",
        "def the_rest(of, this): return the + thing",
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16",
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    )
)
NEW = 24  # tokens


@dataclass(frozen=True)
class Pair:
    """A model as `transformers` has it, and the bundle that was made of its checkpoint."""

    model: Any
    checkpoint: Path
    bundle: Path
    generation: Generation
    run: GraphRun

    def tokens(self, text: str) -> list[int]:
        """As the service makes them of a prompt."""
        tokenizer = Tokenizer.from_file(str(self.bundle / self.generation.tokenizer))
        return [*self.generation.begin, *tokenizer.encode(text, add_special_tokens=False).ids]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    case: Case = request.param
    folder = tmp_path_factory.mktemp(case.name)
    model = make(case, folder / "checkpoint")
    result = CliRunner().invoke(
        export, ["language", str(folder / "checkpoint"), "--name", case.name, "--out", str(folder / "bundles")]
    )
    assert result.exit_code == 0, result.output
    path = folder / "bundles" / case.name / "1"
    bundle = bundles.load(path)
    bundles.verify_files(bundle)
    assert bundle.manifest.generation is not None
    run = GraphRun((path / "model.onnx").read_bytes())
    return Pair(model, folder / "checkpoint", path, bundle.manifest.generation, run)


def test_prompts_become_the_same_tokens(pair: Pair) -> None:
    theirs = AutoTokenizer.from_pretrained(pair.checkpoint)
    for text in PROMPTS:
        assert pair.tokens(text) == theirs(text).input_ids


def test_greedy_texts_are_those_of_transformers_token_for_token(pair: Pair) -> None:
    prompts = [pair.tokens(text) for text in PROMPTS]
    wanted = [
        pair.model.generate(torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, pad_token_id=0)[
            0, len(prompt) :
        ].tolist()
        for prompt in prompts
    ]
    assert pair.run.continued(prompts, NEW, pair.generation.end) == wanted
    assert len({token for text in wanted for token in text}) > 40  # they are no dull texts


def test_a_text_ends_with_the_tokens_that_the_checkpoint_names(pair: Pair) -> None:
    assert list(pair.generation.end) == pair.model.generation_config.eos_token_id
    (text,) = pair.run.continued([[5, 6, 7]], 30, pair.generation.end)
    assert text[-1] == pair.generation.end[0]
    assert len(text) <= 8


def test_log_probabilities_of_all_tokens_are_those_of_transformers(pair: Pair) -> None:
    texts = [pair.tokens(text) for text in PROMPTS[-8:]]
    with torch.no_grad():
        logits = [pair.model(torch.tensor([text])).logits[0] for text in texts]
    tokens = padded(texts)
    chosen = np.broadcast_to(np.arange(VOCAB), (*tokens.shape, VOCAB))
    got = graph_log_probabilities(pair.run, texts, chosen, 16)
    for row, (text, theirs) in enumerate(zip(texts, logits, strict=True)):
        wanted = torch.log_softmax(theirs, -1).numpy()
        assert np.abs(got[row, : len(text)] - wanted).max() < 1e-4
