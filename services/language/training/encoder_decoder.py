"""EncoderDecoder: a Transformer that turns a source text into a target text."""

import torch
from torch import Tensor, nn

from services.language.training.layers import DecoderConfig, Layer, initialise, norm, source_mask


class EncoderDecoder(nn.Module):
    """A source and the beginning of a target in, the logits of the target's next token at every position out.

    Both texts have one vocabulary and one embedding, and positions that are learned.

    Args:
        config: of the decoder, and of the encoder's layers; `positions` must be "learned".
        encoder_layers: layers that read the source.
        max_source: tokens of a source.
    """

    def __init__(self, config: DecoderConfig, encoder_layers: int, max_source: int) -> None:
        super().__init__()
        if config.positions != "learned":
            raise ValueError("an encoder-decoder learns its positions: positions='learned'")
        self.config, self.max_source = config, max_source
        self.tokens = nn.Embedding(config.vocab, config.width)
        self.positions = nn.Embedding(config.max_tokens, config.width)
        self.source_positions = nn.Embedding(max_source, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(Layer(config) for _ in range(encoder_layers))
        self.encoder_norm = norm(config)
        self.layers = nn.ModuleList(Layer(config, cross=True) for _ in range(config.layers))
        self.norm = norm(config)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab, bias=False)
        initialise(self, config.layers)

    def forward(self, source: Tensor, source_length: Tensor, target: Tensor) -> Tensor:
        """float32 [B, T, vocab]; each position of the target sees the whole source and those up to itself.

        Args:
            source: int64 [B, Ts], right-padded, Ts at most `max_source`.
            source_length: int64 [B], at least 1.
            target: int64 [B, T], T at most `max_tokens`.
        """
        encoded, seen = self.encode(source, source_length), source_mask(source_length, source.shape[1])
        x = self.tokens(target) + self.positions(torch.arange(target.shape[1], device=target.device))
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, None, None, encoded, seen)
        return self.logits(self.norm(x))

    def encode(self, source: Tensor, source_length: Tensor) -> Tensor:
        """[B, Ts, width]; what lies behind the end of a source means nothing."""
        seen = source_mask(source_length, source.shape[1])
        x = self.tokens(source) + self.source_positions(torch.arange(source.shape[1], device=source.device))
        x = self.dropout(x)
        for layer in self.encoder:
            x = layer(x, None, seen)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    def logits(self, x: Tensor) -> Tensor:
        """[..., vocab] from [..., width]."""
        return nn.functional.linear(x, self.tokens.weight if self.head is None else self.head.weight)
