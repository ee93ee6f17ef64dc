"""From a network that writes texts to a bundle: its graphs, the proof that they are right, and its known answers."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.manifest import ENCODER, Generation, Manifest, Metrics, TensorSpec, Training
from services.language.training.encoder_decoder import EncoderDecoder
from services.language.training.graph import (
    DTYPES,
    Network,
    Precision,
    encoder_to_onnx,
    round_weights,
    to_onnx,
)
from services.language.training.graph_check import TOLERANCE, check_parity
from services.language.training.graph_run import GraphRun
from services.language.training.known import known_answers
from services.language.training.nodes import OPSET

INPUTS = (TensorSpec("text_input", "BYTES", (1,)), TensorSpec("max_tokens", "INT32", (1,)))
OUTPUTS = (TensorSpec("text_output", "BYTES", (1,)), TensorSpec("token_ids", "INT64", (-1,)))
TOLERANCES: dict[Precision, float] = {"FP32": TOLERANCE, "FP16": 0.1, "BF16": TOLERANCE}


@dataclass(frozen=True, slots=True)
class Exported:
    """The files of a network, and what was found with them."""

    model: bytes
    encoder: bytes | None
    precision: Precision
    run: GraphRun  # of the files; of their float32 twin where they do not run on the CPU
    difference: float  # the largest one of a log-probability from what torch computes
    inputs: Mapping[str, Array]  # the known answers
    outputs: Mapping[str, Array]


def export(
    network: Network,
    *,
    precision: Precision = "FP32",
    half_file: bool = False,
    texts: Sequence[Sequence[int]] = (),
    sources: Sequence[Sequence[int]] = (),
) -> Exported:
    """Exports the network and compares the graphs with it.

    Args:
        network: where `half_file`, its weights are rounded in place.
        precision: of weights, products and caches.
        half_file: whether a float32 bundle says its weights with float16.
        texts: tokens of three texts to check with, of at most 64 tokens, as the model gets them; none: random ones.
        sources: theirs, where there is an encoder.

    Raises:
        ParityError: a graph computes something else than the network.
        NotExportableError: an ONNX file cannot hold the network.
    """
    if half_file:
        round_weights(network)
    files = _files(network, precision, half_file)
    twin = _rounded(network) if precision == "BF16" else network  # ONNX Runtime has no bfloat16 on the CPU
    run = GraphRun(*(_files(twin, "FP32", False) if precision == "BF16" else files))
    difference = check_parity(twin, run, texts, sources, tolerance=TOLERANCES[precision])
    inputs, outputs = known_answers(run, twin, texts, sources, precision=precision)
    return Exported(*files, precision, run, difference, inputs, outputs)


def write(
    folder: Path,
    name: str,
    exported: Exported,
    generation: Generation,
    tokenizer: bytes,
    *,
    description: str,
    version: int = 1,
    training: Training | None = None,
    metrics: Metrics | None = None,
    limits: Sequence[str] = (),
) -> Bundle:
    """Writes `folder`/NAME/VERSION.

    Args:
        generation: as `graph.describe` gives it.
        tokenizer: tokenizer.json.

    Raises:
        StartupError: what was written could not be served.
    """
    manifest = Manifest(
        format=1,
        service="language",
        task="text-generation" if exported.encoder is None else "text-to-text",
        description=description,
        inputs=INPUTS,
        outputs=OUTPUTS,
        max_batch=0,
        opset=OPSET,
        files={},
        training=training,
        metrics=metrics,
        limits=tuple(limits),
        generation=generation,
    )
    files = {generation.tokenizer: tokenizer}
    if exported.encoder is not None:
        files[ENCODER] = exported.encoder
    return bundles.write(
        folder,
        name,
        version,
        model=exported.model,
        manifest=manifest,
        inputs=exported.inputs,
        outputs=exported.outputs,
        files=files,
    )


def _files(network: Network, precision: Precision, half_file: bool) -> tuple[bytes, bytes | None]:
    model = to_onnx(network, precision, half_file=half_file)
    if not isinstance(network, EncoderDecoder):
        return model, None
    return model, encoder_to_onnx(network, precision, half_file=half_file)


def _rounded(network: Network) -> Network:
    """A copy whose weights are rounded to what bfloat16 can say."""
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.copy_(weight.to(DTYPES["BF16"]).float())
    return twin
