"""From a checkpoint folder of GPT-2, Llama, Qwen2 or Qwen3 to a bundle."""

from pathlib import Path

import torch

from services.kit.errors import StartupError
from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from services.kit.training.export import ParityError
from services.kit.training.progress import say
from services.language.training import checkpoint_weights
from services.language.training.checkpoint_config import decoder_config
from services.language.training.checkpoint_folder import Folder
from services.language.training.checkpoint_tokens import Tokens
from services.language.training.decoder import Decoder, DecoderConfig
from services.language.training.export import export, write
from services.language.training.graph import DTYPES, LARGEST, Precision, describe

SAMPLE = 16  # tokens of a text that is checked with
HALF_MAX = torch.finfo(torch.float16).max


def export_checkpoint(
    path: Path,
    folder: Path,
    name: str,
    *,
    version: int = 1,
    precision: Precision = "FP32",
    max_tokens: int | None = None,
    description: str = "",
) -> Bundle:
    """Writes `folder`/NAME/VERSION and says how it goes.

    Args:
        path: of the checkpoint's folder.
        precision: of the graph.
        max_tokens: of a text; unset: all that the checkpoint has positions for.
        description: for the manifest; empty: what the checkpoint is.

    Raises:
        StartupError: names the file, and the key or the weight, that is missing, wrong or of no known kind.
    """
    checkpoint = Folder(path)
    config = decoder_config(checkpoint.config, max_tokens)
    _check_size(config, precision)
    tokens = Tokens(checkpoint, config.vocab)
    family = f"{checkpoint.config['model_type']}, {checkpoint_weights.numbers(config) / 1e6:.1f} million weights"
    say(f"{path}: {family}, {config.layers} layers, vocabulary of {config.vocab}, texts of {config.max_tokens} tokens")
    network = checkpoint_weights.load(checkpoint, config)
    say(f"{path}: weights read; exporting the graph in {precision}")
    _check_range(network, precision)
    try:
        exported = export(network, precision=precision, texts=tokens.samples(min(SAMPLE, config.max_tokens)))
    except ParityError as error:
        raise StartupError(
            f"{path}: {error}", hint="the graph is not what torch computes: try --precision fp32"
        ) from error
    compared = "the graph in fp32 with its weights" if precision == "BF16" else "the graph"  # no CPU runs bf16
    say(f"{path}: log-probabilities of {compared} differ from torch's by {exported.difference:.1e} at most")
    bundle = write(
        folder,
        name,
        exported,
        describe(network, begin=tokens.begin, end=tokens.end, precision=precision),
        tokens.content,
        version=version,
        description=description or f"A checkpoint that was brought along: {family}.",
    )
    if not bundles.labels(folder / name):
        bundles.write_labels(folder / name, {"stable": version})
    return bundle


def _check_size(config: DecoderConfig, precision: Precision) -> None:
    size = checkpoint_weights.numbers(config) * DTYPES[precision].itemsize
    if size > LARGEST:
        raise StartupError(
            f"its weights are {size / 2**30:.2f} GiB with {precision.lower()}, an ONNX file holds less than 2 GiB",
            hint="--precision fp16 halves them" if precision == "FP32" else "this model is too large",
        )


def _check_range(network: Decoder, precision: Precision) -> None:
    for name, weight in network.named_parameters() if precision == "FP16" else ():
        if weight.abs().max() > HALF_MAX:
            raise StartupError(f"{name} has weights that fp16 cannot say", hint="use --precision fp32")
