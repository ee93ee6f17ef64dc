"""gpt_checkpoint: the weights of python-gpt as a checkpoint of transformers, for engines that read those.

Its network is a Qwen3. Matrices lie in the graph in the order of its layers, transposed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from services.kit.inference import bundle as bundles
from services.kit.inference.manifest import Generation

MATRICES = ("qkv", "o", "gate", "up", "down")  # of a layer, in the order of the graph


def write(bundle: Path, folder: Path) -> None:
    """Writes the checkpoint of a bundle of python-gpt, as float32."""
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    generation = bundles.load(bundle).manifest.generation
    assert generation is not None
    weights = _weights(bundle / bundles.MODEL)
    hidden = weights["0.up"].shape[0]
    network = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=generation.vocab,
            hidden_size=weights["network.tokens.weight"].shape[1],
            intermediate_size=hidden,
            num_hidden_layers=generation.layers,
            num_attention_heads=generation.heads,
            num_key_value_heads=generation.kv_heads,
            head_dim=generation.head_dim,
            max_position_embeddings=generation.max_tokens,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=generation.begin[0],
            eos_token_id=generation.end[0],
            pad_token_id=generation.end[0],
        )
    )
    network.load_state_dict(_named(weights, generation))
    network.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(bundle / generation.tokenizer), eos_token="<|end|>")
    tokenizer.save_pretrained(folder)


def _weights(model: Path) -> dict[str, Any]:
    """By name; the matrices of layer n as "n.qkv", "n.o" and so on, [out, in]."""
    import torch

    arrays = {
        tensor.name.removesuffix(".half"): numpy_helper.to_array(tensor)
        for tensor in onnx.load(model).graph.initializer
    }
    found = {name: torch.tensor(array.astype(np.float32)) for name, array in arrays.items() if array.dtype.kind == "f"}
    unnamed = sorted((name for name in found if name.startswith("val_") and found[name].dim() == 2), key=_number)
    for place, name in enumerate(unnamed):
        layer, part = divmod(place, len(MATRICES))
        found[f"{layer}.{MATRICES[part]}"] = found.pop(name).T.contiguous()
    return found


def _number(name: str) -> int:
    return int(name.removeprefix("val_"))


def _named(weights: dict[str, Any], generation: Generation) -> dict[str, Any]:
    """By the names that transformers has for them; what makes queries smaller in the graph is in none of them."""
    sizes = [heads * generation.head_dim for heads in (generation.heads, generation.kv_heads, generation.kv_heads)]
    scale = generation.head_dim**-0.5
    tokens = weights["network.tokens.weight"]
    found = {"model.embed_tokens.weight": tokens, "lm_head.weight": tokens}
    found["model.norm.weight"] = weights["network.norm.weight"]
    for layer in range(generation.layers):
        own, attention = f"model.layers.{layer}", f"model.layers.{layer}.self_attn"
        found[f"{own}.input_layernorm.weight"] = weights[f"network.layers.{layer}.attention_norm.weight"]
        found[f"{own}.post_attention_layernorm.weight"] = weights[f"network.layers.{layer}.mlp_norm.weight"]
        found[f"{attention}.q_norm.weight"] = weights[f"attention.{layer}.query_norm.weight"] / scale
        found[f"{attention}.k_norm.weight"] = weights[f"attention.{layer}.key_norm.weight"]
        for name, part in zip("qkv", weights[f"{layer}.qkv"].split(sizes), strict=True):
            found[f"{attention}.{name}_proj.weight"] = part.contiguous()
        found[f"{attention}.o_proj.weight"] = weights[f"{layer}.o"]
        for part in ("gate", "up", "down"):
            found[f"{own}.mlp.{part}_proj.weight"] = weights[f"{layer}.{part}"]
    return found
