"""Contradictions within a manifest, of all kinds of models."""

import math
import re
from collections.abc import Sequence

from services.kit.inference.datatypes import NUMPY
from services.kit.inference.manifest import (
    ENCODER,
    Generation,
    ImagePreprocessing,
    Manifest,
    NgramFeatures,
    Postprocessing,
    Recurrence,
    Task,
    TensorSpec,
)
from services.kit.inference.strict_json import Mismatch

SERIES: frozenset[Task] = frozenset({"sequence-classification", "time-series-forecasting"})
WRITES: frozenset[Task] = frozenset({"text-generation", "text-to-text"})
# The largest of each number; a file with more is damaged, and would cost memory and time before that is seen.
MOST_OF_GENERATION = {
    "vocab": 1 << 31,
    "layers": 1 << 12,
    "heads": 1 << 12,
    "kv_heads": 1 << 12,
    "head_dim": 1 << 16,
    "max_tokens": 1 << 24,
}
MOST_OF_FEATURES = {"largest": 32, "buckets": 1 << 31, "max_characters": 1 << 20}


def check(manifest: Manifest) -> None:
    """Looks for contradictions within the manifest.

    Raises:
        Mismatch: begins with the key.
    """
    for key, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        _check_specs(key, specs, batched=manifest.max_batch > 0)
    _require(manifest.max_batch >= 0, "max_batch", "must be 0 or more")
    _require(len(set(manifest.classes)) == len(manifest.classes), "classes", "a label occurs twice")
    for name, digest in manifest.files.items():
        _require(re.fullmatch(r"[\w][\w.-]*", name) is not None, f"files.{name}", "is no plain file name")
        _require(re.fullmatch(r"[0-9a-f]{64}", digest) is not None, f"files.{name}", "is no SHA-256")
    if manifest.preprocessing is not None:
        _check_preprocessing(manifest.preprocessing, manifest.inputs)
    if manifest.postprocessing is not None:
        _check_postprocessing(manifest.postprocessing, manifest)
    if manifest.recurrence is not None:
        _check_recurrence(manifest.recurrence, manifest)
    if manifest.generation is not None:
        _check_generation(manifest.generation, manifest)
    if manifest.features is not None:
        _check_features(manifest.features, manifest)
    _require((manifest.task in WRITES) == (manifest.generation is not None), "generation", "is for texts alone")
    if manifest.task == "text-classification":
        _require(manifest.features is not None, "features", f"missing, task {manifest.task} needs it")
        _require(manifest.postprocessing is not None, "postprocessing", f"missing, task {manifest.task} needs it")
        _require(bool(manifest.classes), "classes", f"empty, task {manifest.task} needs labels")
    if manifest.task in SERIES:
        _require(manifest.recurrence is not None, "recurrence", f"missing, task {manifest.task} needs it")
    if manifest.task == "sequence-classification":
        _require(manifest.postprocessing is not None, "postprocessing", f"missing, task {manifest.task} needs it")
        _require(bool(manifest.classes), "classes", f"empty, task {manifest.task} needs labels")
    if manifest.task == "image-classification":
        _require(manifest.preprocessing is not None, "preprocessing", f"missing, task {manifest.task} needs it")
        _require(manifest.postprocessing is not None, "postprocessing", f"missing, task {manifest.task} needs it")
        _require(bool(manifest.classes), "classes", f"empty, task {manifest.task} needs labels")


def _check_specs(key: str, specs: Sequence[TensorSpec], *, batched: bool) -> None:
    _require(bool(specs), key, "empty")
    _require(len({spec.name for spec in specs}) == len(specs), key, "a name occurs twice")
    for index, spec in enumerate(specs):
        at = f"{key}[{index}]"
        _require(bool(spec.name), f"{at}.name", "empty")
        _require(spec.datatype in NUMPY, f"{at}.datatype", f"{spec.datatype!r} is none of {', '.join(NUMPY)}")
        _require(all(size == -1 or size > 0 for size in spec.shape), f"{at}.shape", "sizes are positive, or -1 for any")
        _require(not batched or spec.shape[:1] == (-1,), f"{at}.shape", "dimension 0 must be -1, as max_batch is not 0")


def _check_preprocessing(steps: ImagePreprocessing, inputs: Sequence[TensorSpec]) -> None:
    channels = 1 if steps.channels == "grey" else 3
    size = (steps.height, steps.width)
    shape = (-1, *size, channels) if steps.layout == "NHWC" else (-1, channels, *size)
    _require(
        TensorSpec(steps.input, steps.datatype, shape) in inputs,
        "preprocessing",
        f"no input is named {steps.input!r} and takes {steps.datatype} {list(shape)}",
    )
    _require(-1 <= steps.pad <= 255, "preprocessing.pad", "must lie in [-1, 255]")
    for name, values in (("mean", steps.mean), ("std", steps.std)):
        _require(len(values) in (1, channels), f"preprocessing.{name}", f"must have 1 or {channels} values")
    finite = all(map(math.isfinite, (steps.scale, *steps.mean, *steps.std)))
    _require(finite and all(value > 0 for value in steps.std), "preprocessing.std", "must be positive and all finite")
    plain = steps.scale == 1 and not any(steps.mean) and set(steps.std) == {1.0}
    _require(
        plain or steps.datatype != "UINT8", "preprocessing.scale", "pixels stay as they are where datatype is UINT8"
    )


def _check_recurrence(recurrence: Recurrence, manifest: Manifest) -> None:
    for key in ("layers", "hidden", "max_steps"):
        _require(getattr(recurrence, key) > 0, f"recurrence.{key}", "must be 1 or more")
    series = [spec for spec in manifest.inputs if spec.name == recurrence.input]
    _require(
        len(manifest.inputs) == 1 and len(series) == 1, "recurrence.input", f"{recurrence.input!r} must be the input"
    )
    shape, datatype = series[0].shape, series[0].datatype
    fits = len(shape) == 3 and shape[:2] == (-1, -1) and shape[2] > 0 and datatype == "FP32"
    _require(fits, "recurrence.input", f"must be FP32 [-1, -1, width], is {datatype} {list(shape)}")
    for spec in manifest.outputs:
        fits = spec.shape[:2] == (-1, -1) and len(spec.shape) >= 3 and min(spec.shape[2:]) > 0
        _require(fits, "outputs", f"of a recurrent model are [-1, -1, ...], {spec.name!r} is {list(spec.shape)}")
    outputs = {spec.name: math.prod(spec.shape[2:]) for spec in manifest.outputs}
    _require(recurrence.output in outputs, "recurrence.output", f"{recurrence.output!r} is no output")
    width, horizon = shape[2], recurrence.horizon
    _require(
        (horizon > 0) == (manifest.task == "time-series-forecasting"), "recurrence.horizon", "is for forecasts alone"
    )
    _require(
        not horizon or outputs[recurrence.output] == horizon * width,
        "recurrence.horizon",
        f"{horizon} steps of width {width} are not the {outputs[recurrence.output]} numbers of the output",
    )


def _check_generation(generation: Generation, manifest: Manifest) -> None:
    for key, most in MOST_OF_GENERATION.items():
        _require(1 <= getattr(generation, key) <= most, f"generation.{key}", f"must lie in [1, {most}]")
    most = MOST_OF_GENERATION["max_tokens"]
    _require(0 <= generation.max_source <= most, "generation.max_source", f"must lie in [0, {most}]")
    _require(generation.heads % generation.kv_heads == 0, "generation.heads", "must be a multiple of kv_heads")
    for key in ("begin", "end", "source_end"):
        tokens = getattr(generation, key)
        _require(
            all(0 <= token < generation.vocab for token in tokens), f"generation.{key}", "is outside the vocabulary"
        )
    reads_source = manifest.task == "text-to-text"
    _require((generation.max_source > 0) == reads_source, "generation.max_source", "is for task text-to-text alone")
    _require(not reads_source or bool(generation.begin), "generation.begin", "a target needs a first token")
    for name in (generation.tokenizer, *([ENCODER] if reads_source else [])):
        _require(name in manifest.files, f"files.{name}", "missing")
    interface = (
        (TensorSpec("text_input", "BYTES", (1,)), TensorSpec("max_tokens", "INT32", (1,))),
        (TensorSpec("text_output", "BYTES", (1,)), TensorSpec("token_ids", "INT64", (-1,))),
    )
    _require(
        (manifest.inputs, manifest.outputs) == interface, "inputs", "are text_input and max_tokens of such a model"
    )
    _require(manifest.max_batch == 0, "max_batch", "must be 0 for a model that makes texts")


def _check_features(features: NgramFeatures, manifest: Manifest) -> None:
    _require(1 <= features.smallest <= features.largest, "features.smallest", "must lie in [1, largest]")
    for key, most in MOST_OF_FEATURES.items():
        _require(1 <= getattr(features, key) <= most, f"features.{key}", f"must lie in [1, {most}]")
    text = (TensorSpec("text_input", "BYTES", (-1, 1)),)
    _require(manifest.inputs == text, "inputs", "of a model that takes texts are text_input BYTES [-1, 1]")


def _check_postprocessing(steps: Postprocessing, manifest: Manifest) -> None:
    outputs = {spec.name: spec for spec in manifest.outputs}
    _require(steps.scores in outputs, "postprocessing.scores", f"{steps.scores!r} is no output")
    shape, classes = outputs[steps.scores].shape, len(manifest.classes)
    _require(not classes or shape[-1:] == (classes,), "classes", f"{classes} labels for scores of shape {list(shape)}")
    if steps.embedding is not None:
        _require(steps.embedding in outputs, "postprocessing.embedding", f"{steps.embedding!r} is no output")


def _require(holds: bool, key: str, message: str) -> None:
    if not holds:
        raise Mismatch(f"{key}: {message}")
