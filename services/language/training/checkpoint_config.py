"""The shape of a checkpoint's decoder, as its config.json says it; GPT-2, Llama, Qwen2 and Qwen3."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from services.kit.errors import StartupError
from services.language.training.checkpoint_rope import frequencies
from services.language.training.layers import DecoderConfig

Config = Mapping[str, Any]
Activation = Literal["relu", "silu", "gelu", "gelu_tanh"]
ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# What config.json means where it does not say it.
QWEN3_HEAD = 128  # head_dim of a Qwen3
WINDOWS_FROM = 28  # max_window_layers: the first layer that may look back less far


def decoder_config(config: Config, max_tokens: int | None = None) -> DecoderConfig:
    """The decoder.

    Args:
        max_tokens: positions to keep; unset: all.

    Raises:
        StartupError: names the key and the value that cannot be exported.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise StartupError(f"config.json: model_type is {family!r}", hint=f"known are {', '.join(FAMILIES)}")
    if config.get("quantization_config"):
        raise StartupError(
            "config.json: quantization_config is set: the weights are quantized",
            hint="export the model they were made from",
        )
    positions = _number(config, "n_positions" if family == "gpt2" else "max_position_embeddings")
    if max_tokens is not None and not 1 <= max_tokens <= positions:
        raise StartupError(
            f"{max_tokens} tokens are not within [1, {positions}]",
            hint="max-tokens takes fewer positions than the model has",
        )
    return FAMILIES[family](config, max_tokens or positions)


def _gpt2(config: Config, max_tokens: int) -> DecoderConfig:
    for key, only in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if config.get(key, only) != only:
            raise StartupError(f"config.json: {key} is {config[key]}", hint=f"only {str(only).lower()} can be exported")
    width, heads = _number(config, "n_embd"), _number(config, "n_head")
    return DecoderConfig(
        vocab=_number(config, "vocab_size"),
        width=width,
        layers=_number(config, "n_layer"),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        hidden=config.get("n_inner") or 4 * width,
        max_tokens=max_tokens,
        norm="layer",
        norm_epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        positions="learned",
        gated=False,
        activation=_activation(config, "activation_function", "gelu_new"),
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def _llama(config: Config, max_tokens: int) -> DecoderConfig:
    """A Llama; and what Qwens have in common with it."""
    _check_windows(config, max_tokens)
    width, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    head_dim = config.get("head_dim") or (QWEN3_HEAD if config["model_type"] == "qwen3" else width // heads)
    kv_heads = config.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise StartupError(
            f"config.json: num_attention_heads is {heads}, no multiple of num_key_value_heads {kv_heads}",
            hint="copy the file of the checkpoint again",
        )
    turned, factor = frequencies(config, head_dim)
    qwen2 = config["model_type"] == "qwen2"  # its biases are not for config.json to say
    bias = bool(config.get("attention_bias", False)) and not qwen2
    return DecoderConfig(
        vocab=_number(config, "vocab_size"),
        width=width,
        layers=_number(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=_number(config, "intermediate_size"),
        max_tokens=max_tokens,
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        frequencies=turned,
        rope_factor=factor,
        activation=_activation(config, "hidden_act", "silu"),
        attention_bias=bias or qwen2,
        output_bias=bias,
        mlp_bias=config["model_type"] == "llama" and bool(config.get("mlp_bias", False)),
        head_norm=config["model_type"] == "qwen3",
        tied=bool(config.get("tie_word_embeddings", False)),
    )


FAMILIES: dict[str, Callable[[Config, int], DecoderConfig]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
}


def _check_windows(config: Config, max_tokens: int) -> None:
    """Whether every token sees all before it.

    Raises:
        StartupError: some layers look back less far than texts are long.
    """
    layers = _number(config, "num_hidden_layers")
    kinds = config.get("layer_types") or ["sliding_attention"] * (
        layers - config.get("max_window_layers", WINDOWS_FROM)
    )
    window = config.get("sliding_window")
    if not config.get("use_sliding_window") or "sliding_attention" not in kinds or window is None:
        return
    if max_tokens > window:
        raise StartupError(
            f"config.json: sliding_window is {window}: in longer texts some layers do not see all tokens",
            hint=f"export it with --max-tokens {window} or fewer",
        )


def _activation(config: Config, key: str, default: str) -> Activation:
    name = config.get(key, default)
    if name not in ACTIVATIONS:
        raise StartupError(f"config.json: {key} is {name!r}", hint=f"known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _number(config: Config, key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise StartupError(f"config.json: {key} is {value!r}", hint="it must be a number of 1 or more")
    return value
