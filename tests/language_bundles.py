"""Bundles that write texts, small and with random weights, for tests; made by the exporter, hence with torch."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from services.kit.training.digest import ROOT, training_digest

Kind = Literal["gpt", "gpt2", "translate", "novel", "recite"]
Precision = Literal["FP32", "FP16", "BF16"]
SOURCES = ROOT / "services" / "language" / "training"
MADE_BY = (
    *(f"{name}.py" for name in ("layers", "decoder", "encoder_decoder", "nodes", "sampler", "decoder_graph")),
    *(f"{name}.py" for name in ("traced", "branches", "sampler_graph")),
    *(f"{name}.py" for name in ("graph", "model_file", "graph_run", "graph_check", "known", "export")),
)
CACHE = ROOT / ".cache" / "language"
# Pieces of two bytes and more; "Ġ" is how byte-level vocabularies write a space.
MERGES = (
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "the"),
    ("i", "n"),
    ("in", "g"),
    ("r", "e"),
    ("d", "e"),
    ("de", "f"),
    ("Ġ", "Ġ"),
)
BEGIN, END = "<begin>", "<end>"  # special tokens, behind the pieces
RECITED = f"三百🙂 in the end\n def re: 🙂🙂{END}"
GPT2: dict[str, Any] = {
    "norm": "layer",
    "positions": "learned",
    "gated": False,
    "activation": "gelu_tanh",
    "attention_bias": True,
    "output_bias": True,
    "mlp_bias": True,
}


def tiny(kind: Kind, precision: Precision = "FP32") -> Path:
    """The folder KIND/1 of a bundle, within a folder of bundles that has no other.

    "gpt" is like a Llama and its prompts begin with a token; "gpt2" is like a GPT-2; both take 256 tokens. "translate"
    has an encoder and takes 64 tokens of source and target. "novel" is a "gpt" of 512 tokens and so many weights that a
    step takes its time. "recite" takes 256 tokens and says RECITED again and again, after a prompt of n tokens from its
    token number n on. All have one vocabulary: 256 bytes, MERGES, BEGIN and END.
    """
    words = {"kind": kind, "precision": precision}
    cached = CACHE / training_digest(words, _sources(), (), ("torch", "onnx", "onnxscript")) / kind / "1"
    if not cached.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = _made(Path(folder), kind, precision)
            cached.parent.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # another process was quicker
                made.parent.rename(cached.parent)
    return cached


def tiny_bundle(folder: Path, kind: Kind, name: str = "", version: int = 1, *, precision: Precision = "FP32") -> Path:
    """Puts a copy of such a bundle to `folder`/NAME/VERSION; the name is that of the kind if none is given."""
    path = folder / (name or kind) / str(version)
    shutil.copytree(tiny(kind, precision), path)
    return path


def tokenizer() -> Any:
    """Byte-level, of the library `tokenizers`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, MERGES)]
    made = Tokenizer(models.BPE({piece: token for token, piece in enumerate(pieces)}, list(MERGES)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([BEGIN, END])
    return made


def network(kind: Kind) -> Any:
    """Its weights are so large that what it writes is varied."""
    import torch

    from services.language.training.decoder import Decoder, DecoderConfig
    from services.language.training.encoder_decoder import EncoderDecoder

    if kind == "recite":
        return _reciter()
    shape: dict[str, Any] = {
        "vocab": tokenizer().get_vocab_size(),
        "width": 32,
        "layers": 2,
        "heads": 4,
        "head_dim": 8,
        "hidden": 48,
    }
    if kind == "novel":
        shape |= {"width": 256, "head_dim": 64, "hidden": 1024}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        if kind == "translate":
            made: Any = EncoderDecoder(DecoderConfig(**shape, kv_heads=4, max_tokens=64, tied=False, **GPT2), 1, 64)
        else:
            own: dict[str, Any] = GPT2 if kind == "gpt2" else {"head_norm": True}
            kv_heads, max_tokens = 4 if kind == "gpt2" else 2, 512 if kind == "novel" else 256
            made = Decoder(DecoderConfig(**shape, kv_heads=kv_heads, max_tokens=max_tokens, tied=False, **own))
        with torch.no_grad():
            for weight in made.parameters():
                weight.add_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.1))
    return made.eval()


def _reciter() -> Any:
    """Looks at nothing but the place: what it learned for a place is the token that comes next."""
    import torch

    from services.language.training.decoder import Decoder, DecoderConfig

    characters = tokenizer()
    vocab, said = characters.get_vocab_size(), characters.encode(RECITED).ids
    shape: dict[str, Any] = {"width": vocab, "layers": 1, "heads": 4, "kv_heads": 4, "head_dim": 8, "hidden": 8}
    made = Decoder(DecoderConfig(**shape, vocab=vocab, max_tokens=256, tied=False, norm="layer", positions="learned"))
    assert made.positions is not None
    assert made.head is not None
    with torch.no_grad():
        for weight in (made.tokens.weight, *(weight for layer in made.layers for weight in layer.parameters())):
            weight.zero_()
        made.positions.weight.copy_(torch.eye(vocab)[[said[place % len(said)] for place in range(1, 257)]])
        made.head.weight.copy_(torch.eye(vocab) / 2)  # so that it is sure, and not quite
    return made.eval()


def _made(folder: Path, kind: Kind, precision: Precision) -> Path:
    from services.language.training.export import export, write
    from services.language.training.graph import describe

    writer, characters = network(kind), tokenizer()
    begin, end = characters.token_to_id(BEGIN), characters.token_to_id(END)
    generation = describe(
        writer,
        begin=() if kind in ("gpt2", "recite") else (begin,),
        end=(end,),
        source_end=(end,) if kind == "translate" else (),
        formats=("25 Nov 2026", "2026年11月25日") if kind == "translate" else (),
        precision=precision,
    )
    text = characters.to_str().encode()
    exported = export(writer, precision=precision)
    bundle = write(folder, kind, exported, generation, text, description=f"The test model {kind}.")
    return bundle.path


def _sources() -> list[Path]:
    return [Path(__file__), *(SOURCES / name for name in MADE_BY)]
