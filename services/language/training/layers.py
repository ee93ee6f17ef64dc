"""What the networks of texts are made of: attention, feed-forward parts, norms and rotary positions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The shape of a decoder: a GPT-2, Llama, Qwen2 or Qwen3, or something between them."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int  # heads of keys and values; a divisor of `heads`
    head_dim: int
    hidden: int  # units of the feed-forward part
    max_tokens: int  # positions
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: float = 1e-5
    positions: Literal["rotary", "learned"] = "rotary"
    rope_theta: float = 10_000.0
    frequencies: tuple[float, ...] = ()  # radians a token, one for each pair of a head; empty: as rope_theta has them
    rope_factor: float = 1.0  # of rotated queries and keys
    gated: bool = True  # down(activation(gate(x)) * up(x)) instead of down(activation(up(x)))
    activation: Literal["relu", "silu", "gelu", "gelu_tanh"] = "silu"
    attention_bias: bool = False  # of queries, keys and values
    output_bias: bool = False  # of what attention gives
    mlp_bias: bool = False
    head_norm: bool = False  # an RMSNorm over each head's queries and keys, before they are rotated
    tied: bool = True  # the output layer is the embedding
    dropout: float = 0.0  # in training


class Attention(nn.Module):
    """Attention of a text over itself; queries, keys and values come from one matrix, in this order."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        rows = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.qkv = nn.Linear(config.width, rows, bias=config.attention_bias)
        self.output = nn.Linear(config.heads * config.head_dim, config.width, bias=config.output_bias)
        self.query_norm = nn.RMSNorm(config.head_dim, config.norm_epsilon) if config.head_norm else None
        self.key_norm = nn.RMSNorm(config.head_dim, config.norm_epsilon) if config.head_norm else None

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:
        """[B, T, width] from the same.

        Args:
            rotation: cosines and sines, each [T, head_dim / 2]. None: positions are in `x`.
            mask: bool, to [B, 1, T, T], true where a key is seen. None: each position sees those up to itself.
        """
        q, k, v = self.split(self.qkv(x))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = rotated(q, *rotation), rotated(k, *rotation)
        return self.output(attend(q, k, v, mask, causal=mask is None))  # type: ignore[no-any-return]

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, its heads, T, head_dim]."""
        parts = qkv.reshape(*qkv.shape[:-1], -1, self.head_dim).transpose(1, 2)
        q, k, v = torch.split(parts, [self.heads, self.kv_heads, self.kv_heads], 1)
        return q, k, v


class CrossAttention(nn.Module):
    """Attention of the target over the encoded source."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width = config.heads * config.head_dim
        self.query = nn.Linear(config.width, width, bias=config.attention_bias)
        self.key = nn.Linear(config.width, width, bias=config.attention_bias)
        self.value = nn.Linear(config.width, width, bias=config.attention_bias)
        self.output = nn.Linear(width, config.width, bias=config.output_bias)

    def forward(self, x: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        """[B, T, width] from the same and the encoded source, [B, Ts, width]; mask as `source_mask` gives it."""
        keys, values = self.keys_and_values(encoded)
        return self.output(attend(self.split(self.query(x)), keys, values, mask))  # type: ignore[no-any-return]

    def keys_and_values(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Each [B, heads, Ts, head_dim]; they stay the same for every token of the target."""
        return self.split(self.key(encoded)), self.split(self.value(encoded))

    def split(self, x: Tensor) -> Tensor:
        """[B, heads, T, head_dim] from [B, T, heads * head_dim]."""
        return x.reshape(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)


class FeedForward(nn.Module):
    """The part of a layer that looks at one position; gate and up come from one matrix, in this order."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gated, self.activation = config.gated, config.activation
        self.up = nn.Linear(config.width, config.hidden * (2 if config.gated else 1), bias=config.mlp_bias)
        self.down = nn.Linear(config.hidden, config.width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] from the same."""
        x, activation = self.up(x), ACTIVATIONS[self.activation]
        if self.gated:
            gate, up = x.chunk(2, -1)
            return self.down(activation(gate) * up)  # type: ignore[no-any-return]
        return self.down(activation(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """x + attention, + cross-attention in a decoder with a source, + feed-forward; each sees its normalised input."""

    def __init__(self, config: DecoderConfig, *, cross: bool = False) -> None:
        super().__init__()
        self.attention_norm, self.attention = norm(config), Attention(config)
        self.cross_norm = norm(config) if cross else None
        self.cross = CrossAttention(config) if cross else None
        self.mlp_norm, self.mlp = norm(config), FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask: Tensor | None = None,
        encoded: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """[B, T, width] from the same; `encoded` and its mask `seen` where there is a source."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, mask))
        if self.cross is not None and self.cross_norm is not None:
            x = x + self.dropout(self.cross(self.cross_norm(x), encoded, seen))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]


def norm(config: DecoderConfig) -> nn.RMSNorm | nn.LayerNorm:
    """A norm over the last dimension."""
    return (nn.RMSNorm if config.norm == "rms" else nn.LayerNorm)(config.width, config.norm_epsilon)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
    """[B, T, heads * head_dim]; several heads of queries share one of keys and values where these are fewer."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return y.transpose(1, 2).flatten(2)


def rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """[..., T, head_dim] from the same: number i of the first half is turned with number i of the second one."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cosines - b * sines, b * cosines + a * sines), -1)


def rotations(config: DecoderConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, each float32 [max_tokens, head_dim / 2]."""
    dimension = config.head_dim
    plain = 1.0 / config.rope_theta ** (torch.arange(0, dimension, 2, dtype=torch.int64).float() / dimension)
    frequencies = torch.tensor(config.frequencies) if config.frequencies else plain
    angles = torch.outer(torch.arange(config.max_tokens).float(), frequencies)
    return angles.cos() * config.rope_factor, angles.sin() * config.rope_factor


def source_mask(length: Tensor, size: int) -> Tensor:
    """bool [B, 1, 1, size]: true within the length of each row."""
    return (torch.arange(size, device=length.device) < length[:, None])[:, None, None]


def initialise(network: nn.Module, layers: int) -> None:
    """Small random weights; those that add to the sum of all layers are smaller the more layers there are."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            last = name.endswith((".output", ".down"))
            nn.init.normal_(module.weight, std=0.02 / (2 * layers) ** 0.5 if last else 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
