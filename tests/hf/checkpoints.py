"""Small checkpoints with random weights, made by the library `transformers` as people's own are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerFast

from tests.language_bundles import BEGIN, END, tokenizer

VOCAB = 288  # some more than the tokenizer has, as in many checkpoints
SHAPE = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SHAPE, "intermediate_size": 80, "max_position_embeddings": 128}
GPT2 = {"vocab_size": VOCAB, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 96}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 32}
SHARPER = {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0, "truncate": False, "beta_fast": 8, "beta_slow": 2}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}


@dataclass(frozen=True)
class Case:
    """One checkpoint."""

    name: str
    config: Callable[..., Any]
    model: Any  # the class
    settings: dict[str, Any]
    begins: bool = False  # whether its tokenizer puts a token before a prompt
    saved: dict[str, Any] = field(default_factory=dict)  # how it is written
    dtype: torch.dtype = torch.float32


def _gpt2(name: str, **settings: Any) -> Case:
    return Case(name, transformers.GPT2Config, transformers.GPT2LMHeadModel, GPT2 | settings)


def _llama(name: str, begins: bool = False, **settings: Any) -> Case:
    return Case(name, transformers.LlamaConfig, transformers.LlamaForCausalLM, LLAMA | settings, begins)


def _qwen2(name: str, **settings: Any) -> Case:
    return Case(name, transformers.Qwen2Config, transformers.Qwen2ForCausalLM, LLAMA | settings)


def _qwen3(name: str, saved: dict[str, Any], dtype: torch.dtype = torch.float32, **settings: Any) -> Case:
    return Case(
        name, transformers.Qwen3Config, transformers.Qwen3ForCausalLM, LLAMA | settings, saved=saved, dtype=dtype
    )


CASES = (
    _gpt2("gpt2-tied"),
    _gpt2("gpt2-untied", tie_word_embeddings=False, n_inner=100, activation_function="relu"),
    _llama("llama-llama3", True, num_key_value_heads=2, head_dim=20, rope_parameters=LLAMA3),
    _llama("llama-linear", tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_parameters=LINEAR),
    _qwen2("qwen2-tied", tie_word_embeddings=True, num_key_value_heads=1),
    _qwen2("qwen2-yarn", num_key_value_heads=4, rope_parameters=YARN),
    _qwen3("qwen3-sharded", {"max_shard_size": "40KB"}, tie_word_embeddings=True, head_dim=32, num_key_value_heads=2),
    _qwen3("qwen3-bfloat16", {}, torch.bfloat16, head_dim=8, num_key_value_heads=4, rope_parameters=SHARPER),
)


def make(case: Case, path: Path) -> Any:
    """Writes the checkpoint to the folder `path`, and gives its model with float32.

    The token that ends a text is one that the model comes to after some tokens.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = case.model(case.config(**case.settings, bos_token_id=None, eos_token_id=None)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * (0.2 if weight.ndim > 1 else 0.1))
    made = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=12, do_sample=False, pad_token_id=0)
    model.generation_config.eos_token_id = [int(made[0, 10]), 1]
    model.to(case.dtype).save_pretrained(path, **case.saved)
    fast = tokenizer()
    if case.begins:
        from tokenizers import processors

        token = (BEGIN, fast.token_to_id(BEGIN))
        fast.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[token])
    PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=END).save_pretrained(path)
    return case.model.from_pretrained(path, dtype=torch.float32).eval()
