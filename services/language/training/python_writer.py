"""The network of python-gpt: its tokens, and how it is trained on Python source."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

from services.kit.inference.bundle import Array
from services.kit.training.loop import seeded
from services.kit.training.recipe import Hyperparameters
from services.language.training import resumable
from services.language.training.decoder import Decoder
from services.language.training.layers import DecoderConfig
from services.language.training.python_source import Source
from services.language.training.resumable import Saved

END, END_TOKEN = "<|end|>", 0  # between two files, and before every prompt
VOCAB = 2048
# What merges stay within: line ends, then blanks but for the last, words and signs with a blank before them. A line end
# is a token of its own, so that a prompt may end with one and its tokens are those that training has seen.
PIECES = r"\n+|[^\S\n]+(?!\S)| ?\w+| ?[^\s\w]+|[^\S\n]+"
MAX_TOKENS = 512
LENGTHS = ((0.55, 128), (0.85, 256), (1.0, MAX_TOKENS))  # up to this part of the training, windows have so many tokens


def tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-level pairs, learned from the texts: any text has tokens, and its tokens give it back."""
    made = Tokenizer(models.BPE())
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PIECES), "isolated"), bytes_of])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


def encode(texts: Sequence[str], pairs: Tokenizer) -> Array:
    """int64 [tokens]: all texts, with END behind each."""
    ids = (token for text in pairs.encode_batch(list(texts)) for token in (*text.ids, END_TOKEN))
    return np.fromiter(ids, np.int64)


def network() -> Decoder:
    """With random weights."""
    return Decoder(
        DecoderConfig(
            vocab=VOCAB,
            width=256,
            layers=3,
            heads=4,
            kv_heads=1,
            head_dim=64,
            hidden=384,
            max_tokens=MAX_TOKENS,
            head_norm=True,
        )
    )


def train(source: Source, settings: Hyperparameters, title: str, file: Saved) -> tuple[Decoder, Tokenizer]:
    """The network, trained, and its tokenizer.

    Matrices are trained with Muon, https://kellerjordan.github.io/posts/muon/, in bfloat16 where that loses little.

    Args:
        settings: `batch` counts tokens.
    """
    random = seeded(settings.seed, threads=min(2, torch.get_num_threads()))
    pairs = tokenizer(source.texts)
    tokens = torch.from_numpy(encode(source.texts, pairs))
    starts, made = line_starts(tokens, pairs), network()

    def loss(step: int) -> Tensor:
        random.manual_seed((settings.seed << 32) + step)
        inputs, targets = windows(tokens, starts, settings.batch, length(step / settings.steps), random)
        with torch.autocast("cpu", torch.bfloat16):
            logits = made(inputs)
        return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype")  # of norms, which keep their weights in float32
        resumable.fit(made, optimizers(made, settings), loss, settings.steps, title, file)
    return made, pairs


def line_starts(tokens: Tensor, pairs: Tokenizer) -> Tensor:
    """int64 [lines]: where a line begins and a window may, with MAX_TOKENS behind it."""
    ends = torch.tensor([token == END_TOKEN or "Ċ" in (pairs.id_to_token(token) or "") for token in range(VOCAB)])
    starts = torch.nonzero(ends[tokens]).flatten() + 1
    return starts[starts < len(tokens) - MAX_TOKENS]


def length(part: float) -> int:
    """Tokens of a window when so much of the training is done: short ones first, which cost less."""
    return next(tokens for until, tokens in LENGTHS if part < until)


def windows(tokens: Tensor, starts: Tensor, count: int, size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets, each int64 [count // size, size]; an input is END and all but the last of its targets."""
    chosen = starts[torch.randint(0, len(starts), (count // size,), generator=random)]
    targets = tokens[chosen[:, None] + torch.arange(size)]
    return torch.cat((torch.full_like(targets[:, :1], END_TOKEN), targets[:, :-1]), 1), targets


def optimizers(made: Decoder, settings: Hyperparameters) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [weight for weight in made.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in made.parameters() if all(weight is not matrix for matrix in matrices)]
    return [
        torch.optim.Muon(
            matrices,
            settings.learning_rate,
            settings.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
