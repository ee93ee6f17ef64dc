"""Pair: a model as the library `transformers` has it, and the bundle that the command made of its checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from tokenizers import Tokenizer

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from services.kit.inference.manifest import Generation
from services.language.training.commands import export
from tests.hf.checkpoints import Case, make

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
    """Both, and what `transformers` writes after each of PROMPTS."""

    model: Any
    checkpoint: Path
    bundle: Bundle
    generation: Generation
    texts: list[list[int]]


def pair_of(case: Case, folder: Path) -> Pair:
    """Makes the checkpoint `folder`/checkpoints/NAME and the bundle `folder`/bundles/NAME/1."""
    checkpoint, out = folder / "checkpoints" / case.name, folder / "bundles"
    model = make(case, checkpoint)
    command = ["language", str(checkpoint), "--name", case.name, "--out", str(out)]
    result = CliRunner().invoke(export, command)
    assert result.exit_code == 0, result.output
    bundle = bundles.load(out / case.name / "1")
    generation = bundle.manifest.generation
    assert generation is not None
    texts = [greedy_text(model, tokens(bundle, generation, prompt)) for prompt in PROMPTS]
    return Pair(model, checkpoint, bundle, generation, texts)


def tokens(bundle: Bundle, generation: Generation, text: str) -> list[int]:
    """A prompt as the service gives it to the graph."""
    tokenizer = Tokenizer.from_file(str(bundle.path / generation.tokenizer))
    return [*generation.begin, *tokenizer.encode(text, add_special_tokens=False).ids]


def greedy_text(model: Any, prompt: list[int]) -> list[int]:
    """What `transformers` writes."""
    made = model.generate(torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    text: list[int] = made[0, len(prompt) :].tolist()
    return text
