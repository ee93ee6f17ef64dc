"""The weights of a checkpoint in the places where a Decoder has them: renamed, packed and turned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.kit.errors import StartupError
from services.language.training.checkpoint_folder import Folder
from services.language.training.decoder import Decoder
from services.language.training.layers import DecoderConfig

# What some checkpoints have beside the weights: masks and tables that follow from the shape.
NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Part:
    """A weight of the checkpoint: all rows of one of ours, or some of them."""

    name: str
    shape: tuple[int, ...]
    turned: bool = False  # whether its rows are our columns


Table = dict[str, tuple[Part, ...]]  # by the name of our weight


def load(folder: Folder, config: DecoderConfig) -> Decoder:
    """The decoder with the checkpoint's weights, as float32, in evaluation mode.

    Raises:
        StartupError: a weight is missing, of another shape, or one that such a decoder has not.
    """
    parts = table(config)
    names = _names(folder, parts, config)
    network = Decoder(config)
    weights = dict(network.named_parameters())
    with torch.no_grad():
        for name, blocks in parts.items():
            weights[name].copy_(torch.cat([_read(folder, names[block.name], block) for block in blocks]))
    return network.eval()


def numbers(config: DecoderConfig) -> int:
    """How many the weights are."""
    return sum(math.prod(block.shape) for blocks in table(config).values() for block in blocks)


def table(config: DecoderConfig) -> Table:
    """Where each weight of a Decoder comes from; names are without the prefix that all but the head's have."""
    vocab = (config.vocab, config.width)
    found = _gpt2(config) if config.positions == "learned" else _llama(config)
    if not config.tied:
        found["head.weight"] = (Part(HEAD, vocab),)
    return found


def _gpt2(config: DecoderConfig) -> Table:
    width, hidden = config.width, config.hidden
    found: Table = {
        "tokens.weight": (Part("wte.weight", (config.vocab, width)),),
        "positions.weight": (Part("wpe.weight", (config.max_tokens, width)),),
        **_both("norm", "ln_f", width),
    }
    for layer in range(config.layers):
        ours, theirs = f"layers.{layer}", f"h.{layer}"
        found |= _both(f"{ours}.attention_norm", f"{theirs}.ln_1", width)
        found |= _turned(f"{ours}.attention.qkv", f"{theirs}.attn.c_attn", width, 3 * width)
        found |= _turned(f"{ours}.attention.output", f"{theirs}.attn.c_proj", width, width)
        found |= _both(f"{ours}.mlp_norm", f"{theirs}.ln_2", width)
        found |= _turned(f"{ours}.mlp.up", f"{theirs}.mlp.c_fc", width, hidden)
        found |= _turned(f"{ours}.mlp.down", f"{theirs}.mlp.c_proj", hidden, width)
    return found


def _both(ours: str, theirs: str, width: int) -> Table:
    return {f"{ours}.{kind}": (Part(f"{theirs}.{kind}", (width,)),) for kind in ("weight", "bias")}


def _turned(ours: str, theirs: str, rows: int, columns: int) -> Table:
    """A matrix that is stored the other way round, and its bias."""
    return {
        f"{ours}.weight": (Part(f"{theirs}.weight", (rows, columns), turned=True),),
        f"{ours}.bias": (Part(f"{theirs}.bias", (columns,)),),
    }


def _llama(config: DecoderConfig) -> Table:
    width, queries, keys = config.width, config.heads * config.head_dim, config.kv_heads * config.head_dim
    found: Table = {
        "tokens.weight": (Part("embed_tokens.weight", (config.vocab, width)),),
        "norm.weight": (Part("norm.weight", (width,)),),
    }
    for layer in range(config.layers):
        ours, theirs = f"layers.{layer}", f"layers.{layer}"
        attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        packed = (("q_proj", queries), ("k_proj", keys), ("v_proj", keys))
        gates = (("gate_proj", config.hidden), ("up_proj", config.hidden))
        found[f"{ours}.attention_norm.weight"] = (Part(f"{theirs}.input_layernorm.weight", (width,)),)
        found |= _stacked(f"{ours}.attention.qkv", attention, packed, width, bias=config.attention_bias)
        found |= _stacked(f"{ours}.attention.output", attention, (("o_proj", width),), queries, bias=config.output_bias)
        found[f"{ours}.mlp_norm.weight"] = (Part(f"{theirs}.post_attention_layernorm.weight", (width,)),)
        found |= _stacked(f"{ours}.mlp.up", mlp, gates, width, bias=config.mlp_bias)
        found |= _stacked(f"{ours}.mlp.down", mlp, (("down_proj", width),), config.hidden, bias=config.mlp_bias)
        if config.head_norm:
            for part in ("query", "key"):
                block = Part(f"{attention}.{part[0]}_norm.weight", (config.head_dim,))
                found[f"{ours}.attention.{part}_norm.weight"] = (block,)
    return found


def _stacked(ours: str, theirs: str, blocks: Sequence[tuple[str, int]], columns: int, *, bias: bool) -> Table:
    """Matrices, each with its number of rows, that are one of ours, and their biases."""
    found = {f"{ours}.weight": tuple(Part(f"{theirs}.{name}.weight", (rows, columns)) for name, rows in blocks)}
    if bias:
        found[f"{ours}.bias"] = tuple(Part(f"{theirs}.{name}.bias", (rows,)) for name, rows in blocks)
    return found


def _names(folder: Folder, parts: Table, config: DecoderConfig) -> dict[str, str]:
    """What the checkpoint calls each part.

    Raises:
        StartupError: it has not all of them, or more.
    """
    prefix = "transformer." if config.positions == "learned" else "model."
    if not any(name.startswith(prefix) for name in folder.tensors):
        prefix = ""
    wanted = [block.name for blocks in parts.values() for block in blocks]
    names = {name: name if name == HEAD else prefix + name for name in wanted}
    for name in names.values():
        if name not in folder.tensors:
            raise StartupError(f"{folder.path}: has no weight {name}", hint="copy all of its files again")
    for name in sorted(folder.tensors.keys() - set(names.values())):
        if name != HEAD and not name.endswith(NO_WEIGHTS):  # a head that is tied may be stored all the same
            raise StartupError(
                f"{folder.path}: has a weight {name}, which no {folder.config['model_type']} has by its config.json",
                hint="only models that continue texts can be exported, without adapters and other additions",
            )
    return names


def _read(folder: Folder, name: str, part: Part) -> Tensor:
    tensor = folder.tensor(name)
    shape = tuple(tensor.shape)
    if part.name == "wpe.weight":  # texts may be shorter than they could be
        tensor, shape = tensor[: part.shape[0]], (min(shape[0], part.shape[0]), *shape[1:])
    if shape != part.shape:
        raise StartupError(
            f"{folder.path}: weight {name} is {list(shape)}, by config.json it is {list(part.shape)}",
            hint="copy config.json and the weights of one checkpoint",
        )
    return (tensor.T if part.turned else tensor).float()
