"""`trivium export language`: what a checkpoint must be, and what is said where it is something else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors

from services.kit.errors import StartupError
from services.kit.inference import bundle as bundles
from services.language.training.checkpoint_config import decoder_config
from services.language.training.checkpoint_folder import Folder
from services.language.training.checkpoint_rope import frequencies
from services.language.training.checkpoint_tokens import Tokens
from services.language.training.checkpoint_weights import load, table
from services.language.training.commands import export
from tests.language_bundles import BEGIN, END, tokenizer

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 270,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "eos_token_id": 266,
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 270,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 32,
}
Change = Callable[[Path], None]


def write(folder: Path, config: dict[str, Any], prefix: str = "model.") -> dict[str, torch.Tensor]:
    """A checkpoint with random weights; those it has."""
    parts = [part for parts in table(decoder_config(config)).values() for part in parts]
    random = torch.Generator().manual_seed(1)
    weights = {f"{prefix}{part.name}": torch.randn(part.shape, generator=random) for part in parts}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer().to_str())
    return weights


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "checkpoint", LLAMA)
    return tmp_path / "checkpoint"


def change(path: Path, file: str = "config.json", **values: Any) -> None:
    """Other values in a JSON file."""
    document = json.loads((path / file).read_text()) if (path / file).exists() else {}
    (path / file).write_text(json.dumps(document | values))


def refused(path: Path, *options: str) -> str:
    """What the command says of a checkpoint that it does not take."""
    result = CliRunner().invoke(export, ["language", str(path), "--name", "x", "--out", str(path / "out"), *options])
    assert result.exit_code == 1, result.output
    assert not (path / "out").exists()
    first, hint = [line for line in result.output.splitlines() if not line.startswith(f"{path}: ")]
    assert first.startswith("trivium: ")
    assert hint.strip()
    return first


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "mamba"}, "config.json: model_type is 'mamba'"),
        ({"hidden_act": "mish"}, "config.json: hidden_act is 'mish'"),
        ({"num_hidden_layers": "two"}, "config.json: num_hidden_layers is 'two'"),
        ({"num_key_value_heads": 3}, "config.json: num_attention_heads is 2, no multiple of num_key_value_heads 3"),
        ({"quantization_config": {"quant_method": "gptq"}}, "config.json: quantization_config is set"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "config.json: rope_type is 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "config.json: rope_type is 'longrope'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "config.json: rope_type 'llama3' needs 'low_freq_factor'"),
        ({"rope_parameters": {"full_attention": {}}}, "config.json: rope_parameters.full_attention is of some layers"),
        ({"partial_rotary_factor": 0.5}, "config.json: partial_rotary_factor is 0.5"),
        ({"eos_token_id": [5, 270]}, "eos_token_id 270 is outside the vocabulary of 270 tokens"),
        ({"vocab_size": 100}, "tokenizer.json: has token 266, by config.json tokens end at 99"),
        (
            {"intermediate_size": 25},
            "weight model.layers.0.mlp.gate_proj.weight is [24, 16], by config.json it is [25, 16]",
        ),
        ({"num_hidden_layers": 3}, "has no weight model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "has a weight model.layers.1.input_layernorm.weight, which no llama has"),
        ({"tie_word_embeddings": False}, "has no weight lm_head.weight"),
        ({"vocab_size": 10**9}, "GiB with fp32, an ONNX file holds less than 2 GiB"),
    ],
)
def test_what_the_config_says_is_taken_or_refused_by_its_key(path: Path, values: dict[str, Any], message: str) -> None:
    change(path, **values)
    assert message in refused(path)


def remove(name: str) -> Change:
    return lambda path: (path / name).unlink()


def overwrite(name: str, content: bytes) -> Change:
    def write_over(path: Path) -> None:
        (path / name).write_bytes(content)

    return write_over


def as_pickles(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def as_shards(path: Path) -> None:
    change(path, "model.safetensors.index.json", weight_map={"model.norm.weight": "model-00001-of-00002.safetensors"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), "config.json: is missing"),
        (remove("tokenizer.json"), "tokenizer.json: is missing"),
        (remove("model.safetensors"), "model.safetensors: is missing"),
        (as_pickles, "model.safetensors: is missing"),
        (as_shards, "model-00001-of-00002.safetensors: is missing"),
        (overwrite("config.json", b"{"), "config.json: is no JSON"),
        (overwrite("config.json", b"[]"), "config.json: is no JSON object"),
        (overwrite("tokenizer.json", b"{}"), "tokenizer.json: "),
        (overwrite("model.safetensors", b"\x00" * 20), "model.safetensors: cannot be read"),
        (overwrite("model.safetensors.index.json", b"{}"), "model.safetensors.index.json: weight_map is missing"),
        (overwrite("tokenizer_config.json", b'{"add_eos_token": true}'), "a token is added behind every prompt"),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_named(path: Path, damage: Change, message: str) -> None:
    damage(path)
    assert message in refused(path)


def test_other_faults_are_said_as_well(path: Path, tmp_path: Path) -> None:
    assert "is no folder" in refused(tmp_path / "nowhere")
    assert "65 tokens are not within [1, 64]" in refused(path, "--max-tokens", "65")
    result = CliRunner().invoke(export, ["language", str(path), "--name", "Ä", "--out", str(tmp_path)])
    assert (result.exit_code, "'Ä' is no name for a bundle" in result.output) == (1, True)


def test_windows_are_refused_unless_no_text_is_longer() -> None:
    windows = LLAMA | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 32}
    for values in ({"max_window_layers": 1}, {"layer_types": ["full_attention", "sliding_attention"]}):
        with pytest.raises(StartupError, match="sliding_window is 32"):
            decoder_config(windows | values)
        assert decoder_config(windows | values, 32).max_tokens == 32
    for values in (
        {"max_window_layers": 2},
        {"layer_types": ["full_attention"] * 2},
        {"use_sliding_window": False, "max_window_layers": 0},
    ):
        assert decoder_config(windows | values).max_tokens == 64


@pytest.mark.parametrize("key", ["scale_attn_by_inverse_layer_idx", "add_cross_attention"])
def test_what_a_gpt2_may_be_beside_itself_is_refused(key: str) -> None:
    with pytest.raises(StartupError, match=f"{key} is True"):
        decoder_config(GPT2 | {key: True})


def test_a_gpt2_may_lack_the_prefix_and_bring_its_masks(tmp_path: Path) -> None:
    weights = write(tmp_path / "plain", GPT2, prefix="")
    save_file({**weights, "h.0.attn.bias": torch.ones(1, 1, 32, 32)}, tmp_path / "plain" / "model.safetensors")
    loaded = dict(load(Folder(tmp_path / "plain"), decoder_config(GPT2, 20)).named_parameters())
    assert loaded["layers.0.attention.qkv.weight"].equal(weights["h.0.attn.c_attn.weight"].T)
    assert loaded["positions.weight"].equal(weights["wpe.weight"][:20])


def test_weights_beyond_half_precision_are_refused_for_it(path: Path) -> None:
    weights = write(path.parent / "large", LLAMA)
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = 1e5
    save_file(weights, path.parent / "large" / "model.safetensors")
    assert "layers.1.mlp.down.weight has weights that fp16 cannot say" in refused(
        path.parent / "large", "--precision", "fp16"
    )


def test_scalings_of_the_fourth_version_of_transformers_are_those_of_the_fifth() -> None:
    old = {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.0}}
    assert frequencies(old, 8) == frequencies(new, 8)
    assert frequencies(old, 8)[0] == pytest.approx([0.5 / 500 ** (pair / 4) for pair in range(4)])


@pytest.mark.parametrize(
    ("settings", "processed", "begin"),
    [
        ({}, False, ()),
        ({}, True, (265,)),
        ({"add_bos_token": False, "bos_token": BEGIN}, True, ()),
        ({"add_bos_token": True, "bos_token": BEGIN}, False, (265,)),
        ({"add_bos_token": True, "bos_token": {"content": END}}, False, (266,)),
        ({"add_bos_token": True}, True, ()),
    ],
)
def test_a_prompt_begins_as_the_tokenizer_says(
    path: Path, settings: dict[str, Any], processed: bool, begin: tuple[int, ...]
) -> None:
    fast: Tokenizer = tokenizer()
    if processed:
        fast.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 265)])
    (path / "tokenizer.json").write_text(fast.to_str())
    change(path, "tokenizer_config.json", **settings)
    tokens = Tokens(Folder(path), 270)
    assert tokens.begin == begin
    assert tokens.end == (266,)
    assert all(text[: len(begin)] == list(begin) for text in tokens.samples(16))


def test_a_checkpoint_becomes_a_bundle_that_says_what_it_is(path: Path, tmp_path: Path) -> None:
    change(path, "generation_config.json", eos_token_id=[266, 7])
    command = ["language", str(path), "--name", "mine", "--out", str(tmp_path), "--max-tokens", "40", "--version", "3"]
    result = CliRunner().invoke(export, command)
    assert result.exit_code == 0, result.output
    *lines, last = result.output.splitlines()
    assert [line.startswith(f"{path}: ") for line in lines] == [True] * 3
    assert last.startswith(f"{tmp_path}/mine/3: written")
    manifest = bundles.load(tmp_path / "mine" / "3").manifest
    assert manifest.generation is not None
    assert (manifest.generation.max_tokens, manifest.generation.end) == (40, (266, 7))
    assert bundles.labels(tmp_path / "mine") == {"stable": 3}
