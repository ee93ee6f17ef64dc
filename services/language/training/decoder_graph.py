"""DecoderGraph and EncoderGraph: the networks as the exporter has to see them, with caches."""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from services.language.training import nodes
from services.language.training.decoder import Decoder
from services.language.training.encoder_decoder import EncoderDecoder
from services.language.training.layers import ACTIVATIONS, Attention, CrossAttention, FeedForward, Layer

Weighted = TypeVar("Weighted", bound=nn.Module)


class DecoderGraph(nn.Module):
    """One graph for whole prompts, pieces of them and one more token of many texts; they may be mixed in a run.

    Args:
        by_query: whether it is told how queries lie in the products of attention, and each may have one of its own.
    """

    def __init__(self, network: Decoder | EncoderDecoder, *, by_query: bool) -> None:
        super().__init__()
        self.network = network
        self.attention = nn.ModuleList(
            _SelfAttention(layer.attention, scaled=by_query) for layer in _of(network.layers)
        )
        self.feed_forward = _feed_forward(network.layers)

    def forward(
        self,
        token_ids: Tensor,
        start: Tensor,
        steps: Tensor,
        places: Tensor,
        out_index: Tensor,
        form: Sequence[Tensor],
        source: Sequence[Tensor],
        past: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """Logits, float32 [N, vocab], and the caches with these tokens in them.

        Args:
            token_ids: int64 [B, T], right-padded.
            start: int64 [B], the tokens of each row that are in the cache.
            steps, places: int64 [T] and [M]: 0, 1, ...
            out_index: int64 [N], which of the B * T positions.
            form: how queries lie in the products of attention, int64 [4], as for `nodes.formed`; or nothing.
            source: empty, or the lengths of the sources, int64 [B], and keys and values of every layer.
            past: keys and values of every layer, each [B, kv_heads, M, head_dim].
        """
        last = start[:, None] + steps  # place of each token
        positions = torch.clamp(last, max=self.network.config.max_tokens - 1)  # padding may lie behind all there are
        x = self.network.tokens(token_ids)
        if self.network.positions is not None:
            x = x + self.network.positions(positions)
        more, present = None, []
        mask, rotation = self._mask(last, places, form, past[0].dtype), self._rotation(positions)
        parts = zip(_of(self.network.layers), self.attention, self.feed_forward, strict=True)
        for index, (layer, attention, feed_forward) in enumerate(parts):
            y, x = _normalised(x, more, layer.attention_norm)
            more, *cache = attention(y, rotation, start, mask, form, *past[2 * index : 2 * index + 2])
            present += cache
            if layer.cross is not None and layer.cross_norm is not None:
                y, x = _normalised(x, more, layer.cross_norm)
                more = _cross(layer.cross, y, source[0], *source[2 * index + 1 : 2 * index + 3])
            y, x = _normalised(x, more, layer.mlp_norm)
            more = feed_forward(y)
        x, _ = _normalised(x, more, self.network.norm)
        rows = nodes.gathered(x, out_index)
        return (self.network.logits(rows).float(), *present)

    def _mask(self, last: Tensor, places: Tensor, form: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """0 where a position sees a key, else what makes it too small: [B, 1, heads / kv_heads * T, M] or formed."""
        config = self.network.config
        mask = torch.where(places <= last[:, None, :, None], 0.0, -1e9).to(dtype)
        if form:
            return nodes.formed(torch.cat([mask] * config.heads, 1), *form)
        return torch.cat([mask] * (config.heads // config.kv_heads), 2)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Cosines, sines and which of them; None where positions are learned."""
        if isinstance(self.network, EncoderDecoder) or self.network.positions is not None:
            return None
        return self.network.cosines, self.network.sines, positions


class EncoderGraph(nn.Module):
    """Reads sources, and computes what every layer of the decoder looks at in them."""

    def __init__(self, network: EncoderDecoder) -> None:
        super().__init__()
        self.network = network
        self.feed_forward = _feed_forward(network.encoder)

    def forward(self, source: Tensor, source_length: Tensor) -> tuple[Tensor, ...]:
        """Keys and values of every layer of the decoder, each [B, heads, Ts, head_dim].

        Args:
            source: int64 [B, Ts], right-padded.
            source_length: int64 [B], at least 1.
        """
        network = self.network
        x = network.tokens(source) + network.source_positions(torch.arange(source.shape[1]))
        more = None
        for layer, feed_forward in zip(_of(network.encoder), self.feed_forward, strict=True):
            y, x = _normalised(x, more, layer.attention_norm)
            q, k, v = layer.attention.split(layer.attention.qkv(y))
            more = layer.attention.output(nodes.attention(q, k, v, source_length))
            y, x = _normalised(x, more, layer.mlp_norm)
            more = feed_forward(y)
        x, _ = _normalised(x, more, network.encoder_norm)
        crosses = [layer.cross for layer in _of(network.layers) if layer.cross is not None]
        return tuple(part for cross in crosses for part in cross.keys_and_values(x))


def _normalised(x: Tensor, more: Tensor | None, norm: nn.RMSNorm | nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """The norm of the sum so far, and the sum."""
    return (nodes.first_norm(x, norm), x) if more is None else nodes.added_norm(x, more, norm)


def _cross(part: CrossAttention, x: Tensor, length: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    q = nodes.by_head(part.query(x), part.head_dim)
    return part.output(nodes.attention(q, keys, values, length))  # type: ignore[no-any-return]


def _of(layers: nn.ModuleList) -> list[Layer]:
    return [layer for layer in layers if isinstance(layer, Layer)]


def _feed_forward(layers: nn.ModuleList) -> nn.ModuleList:
    return nn.ModuleList(_Gated(layer.mlp) if layer.mlp.gated else layer.mlp for layer in _of(layers))


class _SelfAttention(nn.Module):
    """Attention of a text over itself, with what it has computed of earlier tokens.

    Args:
        scaled: whether queries are so small that their products with keys need not be made smaller.
    """

    def __init__(self, part: Attention, *, scaled: bool) -> None:
        super().__init__()
        self.head_dim, self.heads = part.head_dim, [part.heads, part.kv_heads, part.kv_heads]
        self.qkv, self.output = part.qkv, part.output
        self.query_norm, self.key_norm = part.query_norm, part.key_norm
        scale = part.head_dim**-0.5
        if scaled and self.query_norm is not None:
            self.query_norm = _scaled(self.query_norm, part.head_dim, scale)
        elif scaled:
            self.qkv = _scaled(self.qkv, part.heads * part.head_dim, scale)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor, Tensor] | None,
        start: Tensor,
        mask: Tensor,
        form: Sequence[Tensor],
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What it adds, [B, T, width], and keys and values with those of these tokens."""
        q, k, v = torch.split(nodes.by_head(self.qkv(x), self.head_dim), self.heads, 1)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = nodes.rms_norm(q, self.query_norm), nodes.rms_norm(k, self.key_norm)
        if rotation is not None:
            q, k = nodes.rotated(q, *rotation), nodes.rotated(k, *rotation)
        keys, values = nodes.scattered(keys, k, start), nodes.scattered(values, v, start)
        if form:
            attended = nodes.attention_by_query(q, keys, values, mask, *form)
        else:
            attended = nodes.causal_attention(q, keys, values, mask)
        return self.output(attended), keys, values


class _Gated(nn.Module):
    """The feed-forward part with a product each for gate and up: one product that is divided takes longer."""

    def __init__(self, part: FeedForward) -> None:
        super().__init__()
        self.activation, self.down = ACTIVATIONS[part.activation], part.down
        self.gate, self.up = (_rows(part.up, half) for half in torch.arange(part.up.out_features).chunk(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


def _scaled(module: Weighted, rows: int, scale: float) -> Weighted:
    """A copy, some of whose first numbers are that much smaller."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for weight in module.parameters():
            weight[:rows] *= scale
    return module


def _rows(linear: nn.Linear, rows: Tensor) -> nn.Linear:
    """The layer that gives some of the numbers of another one."""
    part = nn.Linear(linear.in_features, len(rows), bias=linear.bias is not None, dtype=linear.weight.dtype)
    part.weight = nn.Parameter(linear.weight[rows])
    if linear.bias is not None:
        part.bias = nn.Parameter(linear.bias[rows])
    return part
