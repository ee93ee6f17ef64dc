"""Manifest: what a bundle's manifest.json says about its model; the public interface comes from here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
