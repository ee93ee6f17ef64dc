"""Decoder: a Transformer that continues a text."""

import torch
from torch import Tensor, nn

from services.language.training.layers import DecoderConfig, Layer, initialise, norm, rotations

__all__ = ["Decoder", "DecoderConfig"]


class Decoder(nn.Module):
    """Tokens in, the logits of the next one at every position out."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab, config.width)
        self.positions = nn.Embedding(config.max_tokens, config.width) if config.positions == "learned" else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = norm(config)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab, bias=False)
        if config.positions == "rotary":
            for name, table in zip(("cosines", "sines"), rotations(config), strict=True):
                self.register_buffer(name, table, persistent=False)
        initialise(self, config.layers)

    def forward(self, token_ids: Tensor) -> Tensor:
        """float32 [B, T, vocab] from int64 [B, T], T at most `max_tokens`; each position sees those up to itself."""
        x, rotation = self.embed(token_ids), None
        if self.positions is None:
            rotation = self.cosines[: token_ids.shape[1]], self.sines[: token_ids.shape[1]]
        for layer in self.layers:
            x = layer(x, rotation)
        return self.logits(self.norm(x))

    def embed(self, token_ids: Tensor) -> Tensor:
        """[B, T, width]: the tokens and, where positions are learned, their positions from 0 on."""
        x = self.tokens(token_ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(token_ids.shape[1], device=token_ids.device))
        return self.dropout(x)  # type: ignore[no-any-return]

    def logits(self, x: Tensor) -> Tensor:
        """[..., vocab] from [..., width]."""
        return nn.functional.linear(x, self.tokens.weight if self.head is None else self.head.weight)
