"""Manifest: what a bundle's manifest.json says about its model; the public interface comes from here."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from services.kit.errors import StartupError
from services.kit.inference import strict_json
from services.kit.inference.datatypes import NUMPY
from services.kit.inference.strict_json import Mismatch

FORMAT = 1
# The closed list of tasks: what a service's typed methods can do with a bundle. "tensors": plain tensors by OIP.
Task = Literal[
    "image-classification",
    "sequence-classification",
    "time-series-forecasting",
    "text-generation",
    "text-to-text",
    "text-classification",
    "tensors",
]
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
ENCODER = "encoder.onnx"  # beside the decoder, in a bundle that turns a source text into a target text


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of the public interface."""

    name: str
    datatype: str  # of the Open Inference Protocol: "FP32"
    shape: tuple[int, ...]  # -1: any size


@dataclass(frozen=True, slots=True)
class ImagePreprocessing:
    """From a decoded image to the model's input: resize, then (pixel * scale - mean) / std for each channel."""

    input: str  # name of the input that takes the image
    width: int  # pixels
    height: int
    channels: Literal["grey", "rgb"]
    layout: Literal["NHWC", "NCHW"]
    datatype: Literal["UINT8", "FP16", "FP32"]  # UINT8: pixels 0..255 as they are; the graph normalises
    # Filters as Pillow has them: on reduction they widen, so that no pixel of the source is skipped.
    resize: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    # stretch: each side to its size; contain: the longer side, the rest is padded; cover: the shorter, the rest is cut.
    fit: Literal["stretch", "contain", "cover"] = "stretch"
    # For contain: 0..255 in every channel, or -1: for each channel the median of the image's outermost pixels.
    pad: int = 0
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)  # one value, or one for each channel
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A recurrent graph: what callers never see of it, and how long its series are.

    The graph takes `lengths`, INT32 [batch], the steps of each row, and, unless it reads both ways, `state`, FP32
    [batch, state_width], and gives `next_state` of the same shape. A row holds the hidden states of all layers, for an
    LSTM followed by the cell states of all layers; zeros are the beginning of a series.
    """

    input: str  # name of the public input FP32 [batch, time, width]
    output: str  # name of the public output FP32 [batch, time, ...]: what the model says after each step
    cell: Literal["rnn", "lstm", "gru"]
    layers: int
    hidden: int  # units of one layer and direction
    max_steps: int  # of one series or stream
    bidirectional: bool = False  # reads whole series only, and keeps no state
    horizon: int = 0  # steps ahead in each output, one after the other; for forecasts
    allow_non_finite: bool = False  # whether NaN and infinity are values
    lengths: str = "lengths"
    state: str = "state"
    next_state: str = "next_state"

    @property
    def state_width(self) -> int:
        """Numbers in the state of one row."""
        return 0 if self.bidirectional else self.layers * self.hidden * (2 if self.cell == "lstm" else 1)


@dataclass(frozen=True, slots=True)
class Generation:
    """A decoder that makes tokens: what callers never see of it (its caches and its sampler), and its limits.

    `services/language/graph.py` says which inputs and outputs the graph has.
    """

    vocab: int  # tokens are integers in [0, vocab)
    layers: int
    heads: int  # of the queries
    kv_heads: int  # of the cache
    head_dim: int
    max_tokens: int  # of one text: prompt and what is made of it; with an encoder, of the target
    begin: tuple[int, ...]  # tokens that every prompt, or every target, begins with
    end: tuple[int, ...]  # tokens that end a text
    precision: Literal["FP32", "FP16", "BF16"] = "FP32"  # of the weights' products and the cache
    max_source: int = 0  # tokens of a source text; more than 0: there is an encoder
    source_end: tuple[int, ...] = ()  # tokens that every source text ends with
    tokenizer: str = "tokenizer.json"  # file of the bundle, as the library `tokenizers` reads it
    formats: tuple[str, ...] = ()  # what a source text may look like, an example of each


@dataclass(frozen=True, slots=True)
class NgramFeatures:
    """How a text becomes numbers: the hashes of its runs of characters; `services/language/features.py`."""

    buckets: int  # features are integers in [1, buckets]; 0 is none
    input: str = "features"  # name of the graph's input INT64 [batch, features]
    smallest: int = 1  # characters of the shortest run
    largest: int = 4
    max_characters: int = 2000  # of a text
    casefold: bool = True  # whether upper and lower case are the same


@dataclass(frozen=True, slots=True)
class Postprocessing:
    """Which outputs mean what."""

    scores: str  # name of the output [batch, classes], in the order of `classes`
    softmax: bool  # whether the scores are logits, which softmax makes probabilities
    embedding: str | None = None  # name of the output [batch, width] that Embed answers


@dataclass(frozen=True, slots=True)
class Training:
    """Where a model comes from."""

    data: str  # what it was trained on, in words
    source: str  # who made the data, and where it comes from
    licence: str
    digest: str  # SHA-256 of everything that went into the training: code, data, hyperparameters, versions
    seed: int
    versions: Mapping[str, str]  # of the libraries: {"torch": "2.13.0"}


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """How one class did on the held-out data; ratios in [0, 1]."""

    precision: float
    recall: float
    f1: float
    samples: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """What was measured on data that the training never saw."""

    data: str  # the held-out data, in words
    samples: int
    values: Mapping[str, float]  # {"accuracy": 0.99, "accuracy_dark_on_light": 0.99}
    classes: Mapping[str, ClassMetrics] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()  # samples; a row for each true class, a column for each predicted one


@dataclass(frozen=True, slots=True)
class Manifest:
    """A bundle's manifest.json. Fields with a default may be absent; any other key is refused."""

    format: Literal[1]
    service: str  # which service serves it: "vision"
    task: Task
    description: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int  # rows that one run may have; 0: dimension 0 is no batch dimension
    opset: int
    files: Mapping[str, str]  # SHA-256 in hexadecimal digits of every file but the manifest, by name
    classes: tuple[str, ...] = ()  # labels, by index
    preprocessing: ImagePreprocessing | None = None
    postprocessing: Postprocessing | None = None
    training: Training | None = None
    metrics: Metrics | None = None
    limits: tuple[str, ...] = ()  # what the model is not good for, in words
    recurrence: Recurrence | None = None  # of a model that takes series
    generation: Generation | None = None  # of a model that makes texts
    features: NgramFeatures | None = None  # of a model that takes texts and has no tokens

    @property
    def decoupled(self) -> bool:
        """Whether one request may get several answers."""
        return self.generation is not None

    @property
    def stateful(self) -> bool:
        """Whether it keeps state between the steps of a stream."""
        return self.recurrence is not None and not self.recurrence.bidirectional


def load(path: Path) -> Manifest:
    """The manifest in the file `path`.

    Raises:
        StartupError: names the file and the key that is missing, unknown, of a wrong type or in contradiction.
    """
    try:
        manifest = strict_json.read(Manifest, path.read_text("utf-8"))
        check(manifest)
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"{path}: cannot be read: {error}", hint="a bundle is NAME/VERSION/manifest.json") from error
    except Mismatch as error:
        raise StartupError(f"{path}: {error}", hint="correct the manifest, or export the model again") from error
    return manifest


def to_json(manifest: Manifest) -> str:
    """The text of manifest.json; `load` gives the same manifest back."""
    text = json.dumps(_without_none(dataclasses.asdict(manifest)), indent=2, ensure_ascii=False)
    on_one_line = re.sub(r"\[\n\s+([-+.\w]+(?:,\n\s+[-+.\w]+)*)\n\s+\]", _joined, text)
    return f"{on_one_line}\n"


def _joined(numbers: re.Match[str]) -> str:
    return "[" + re.sub(r",\n +", ", ", numbers[1]) + "]"


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


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
