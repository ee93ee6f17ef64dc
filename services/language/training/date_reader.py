"""The network of dates-transformer: its characters, how it is trained, and what it gets right of held-out days."""

from collections.abc import Sequence
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers
from torch import Tensor
from torch.nn import functional

from services.kit.training.loop import seeded
from services.kit.training.recipe import Hyperparameters
from services.language.training import dates, resumable
from services.language.training.encoder_decoder import EncoderDecoder
from services.language.training.layers import DecoderConfig
from services.language.training.resumable import Saved

UNKNOWN, BEGIN, END = "<unknown>", "<begin>", "<end>"  # tokens 0, 1 and 2
BEGIN_TOKEN, END_TOKEN = 1, 2
CHARACTERS = (
    " '()+,-./0123456789:abcdefghijklmnopqrstuvwxyz○。〇一七三九二五元八公六十卅号周四天年廿拜日星月期礼禮號西週零"
)
LENGTH = 10  # characters of a day in ISO 8601
MAX_TOKENS, MAX_SOURCE = 16, 64
WIDTH, HEADS, LAYERS = 64, 8, 2
PART = 32  # texts of about one length that are computed together


def tokenizer() -> Tokenizer:
    """One token for each character, whatever its case and width; characters that no format has are unknown."""
    pieces = {piece: token for token, piece in enumerate((UNKNOWN, BEGIN, END, *CHARACTERS))}
    made = Tokenizer(models.BPE(pieces, [], unk_token=UNKNOWN))
    tidy = normalizers.Replace(Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), tidy, normalizers.Strip()])
    made.decoder = decoders.Fuse()
    made.add_special_tokens([UNKNOWN, BEGIN, END])
    return made


def network() -> EncoderDecoder:
    """With random weights."""
    config = DecoderConfig(
        vocab=3 + len(CHARACTERS),
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        kv_heads=HEADS,
        head_dim=WIDTH // HEADS,
        hidden=4 * WIDTH,
        max_tokens=MAX_TOKENS,
        norm="layer",
        positions="learned",
        gated=False,
        activation="gelu",
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
    )
    return EncoderDecoder(config, LAYERS, MAX_SOURCE)


def train(settings: Hyperparameters, title: str, file: Saved) -> EncoderDecoder:
    """The network, trained with one thread: a second one would only wait."""
    seeded(settings.seed, threads=1)
    made, characters = network(), tokenizer()
    known = dates.writable(dates.days(kept_back=False))
    optimizer = torch.optim.AdamW(
        made.parameters(), settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )

    def loss(step: int) -> Tensor:
        chosen = dates.pairs(known, settings.batch, Random(f"{settings.seed} {step}"))
        chosen.sort(key=lambda pair: len(pair[0]))  # so that less is padded
        parts = [chosen[at : at + PART] for at in range(0, len(chosen), PART)]
        return torch.stack([loss_of(made, *batch(part, characters)) for part in parts]).mean()

    resumable.fit(made, [optimizer], loss, settings.steps, title, file)
    return made


def loss_of(made: EncoderDecoder, source: Tensor, length: Tensor, target: Tensor) -> Tensor:
    """The mean cross entropy of the targets' characters and ends."""
    logits = made(source, length, target[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten())


def batch(pairs: Sequence[dates.Pair], characters: Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """Sources int64 [B, Ts], right-padded, their lengths [B], and targets [B, 12] with both ends."""
    sources = [encode(text, characters) for text, _ in pairs]
    longest = max(map(len, sources))
    padded = torch.tensor([[*source, *[0] * (longest - len(source))] for source in sources])
    days = characters.encode_batch([day for _, day in pairs], add_special_tokens=False)
    targets = torch.tensor([[BEGIN_TOKEN, *day.ids, END_TOKEN] for day in days])
    return padded, torch.tensor([len(source) for source in sources]), targets


def encode(text: str, characters: Tokenizer) -> list[int]:
    """The tokens of a source text."""
    return [*characters.encode(text, add_special_tokens=False).ids, END_TOKEN]


@torch.no_grad()
def read(made: EncoderDecoder, texts: Sequence[str], characters: Tokenizer) -> list[str]:
    """What the network makes of each text, the likeliest character after the other."""
    source, length, _ = batch([(text, "") for text in texts], characters)
    target = torch.full((len(texts), 1), BEGIN_TOKEN)
    for _ in range(LENGTH + 1):
        newest = made(source, length, target)[:, -1:].argmax(-1)
        target = torch.cat((target, newest), 1)
    rows = (row[: row.index(END_TOKEN)] if END_TOKEN in row else row for row in target[:, 1:].tolist())
    return [characters.decode(row) for row in rows]
