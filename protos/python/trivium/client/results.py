"""What the SDK's calls return: frozen dataclasses, made from messages and trailing metadata."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trivium.common.v1 import classes_pb2, model_pb2
from trivium.sequence.v1 import sequence_pb2

Trailers = Mapping[str, str]
STATES = {
    model_pb2.MODEL_STATE_READY: "ready",
    model_pb2.MODEL_STATE_UNLOADED: "unloaded",
    model_pb2.MODEL_STATE_FAILED: "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Who answered a call and where its time went, from the trailing metadata."""

    model: str = ""  # name of the bundle
    version: int = 0
    instance: str = ""  # the process that answered
    queue_us: int | None = None  # microseconds that it waited for the engine
    compute_us: int | None = None  # microseconds that the engine took for its whole batch
    batch_size: int | None = None  # items computed together
    attempts: int | None = None  # instances that the gateway asked, the last one included

    @classmethod
    def of(cls, trailers: Trailers) -> "Served":
        """What the trailing metadata says; what it does not say keeps its default."""
        return cls(
            model=trailers.get("trivium-model", ""),
            version=_number(trailers, "trivium-version") or 0,
            instance=trailers.get("trivium-instance", ""),
            queue_us=_number(trailers, "trivium-queue-us"),
            compute_us=_number(trailers, "trivium-compute-us"),
            batch_size=_number(trailers, "trivium-batch-size"),
            attempts=_number(trailers, "trivium-attempts"),
        )


@dataclass(frozen=True, slots=True)
class RankedClass:
    """One class of an answer."""

    label: str
    index: int  # in the model's output, from 0
    probability: float  # in [0, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification(Served):
    """The most probable classes of one image, series or text, best first.

    Answers of `classify_many` share one call, whose trailing metadata cannot speak of single images: there the fields
    of Served keep their defaults.
    """

    classes: tuple[RankedClass, ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[0].label

    @property
    def probability(self) -> float:
        """The probability of the most probable class, in [0, 1]."""
        return self.classes[0].probability


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Served):
    """The vector of one image or text; its length depends on the model."""

    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast(Served):
    """The steps that follow a series, one after the other, in its unit."""

    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackAnswer:
    """The answer to one step of a live series."""

    step: int  # 1 for the first step of the series; a resumed one goes on counting
    classes: tuple[RankedClass, ...]  # best first; only of models that classify
    values: tuple[float, ...]  # of other models; where they forecast, the next steps up to the longest horizon
    state: bytes  # the series' state after this step, if it was asked for and the step is the last one of its message
    model: str  # the bundle that answers, as "name:version"

    @property
    def label(self) -> str:
        """The most probable class; of models that classify."""
        return self.classes[0].label

    @property
    def probability(self) -> float:
        """The probability of the most probable class, in [0, 1]."""
        return self.classes[0].probability


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, datatype and shape of a model's input or output."""

    name: str
    datatype: str  # the Open Inference Protocol's word: FP32, INT64, BYTES, ...
    shape: tuple[int, ...]  # -1 is any size


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model."""

    name: str
    version: int
    service: str  # "vision", "sequence" or "language"
    task: str
    ready: bool
    state: str  # "ready", "unloaded" or "failed"
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...]  # version labels: "name@label" names this version
    classes: tuple[str, ...]
    max_batch_size: int  # 0: the first dimension is no batch
    is_default: bool  # whether an empty model name means this one
    digest: str
    stateful: bool  # whether it keeps state between the calls of a sequence
    max_horizon: int  # longest horizon of its forecasts in steps; 0: it does not forecast
    max_steps: int  # steps that one series or stream may have; 0: it takes no series
    max_tokens: int  # tokens of a prompt and what is made of it; of a model with an encoder, of the latter; 0: no texts
    description: str
    card: Mapping[str, Any]  # training data, held-out metrics, limits; empty in lists

    @classmethod
    def of(cls, info: model_pb2.ModelInfo) -> "Model":
        """The model that the message describes."""
        return cls(
            name=info.name,
            version=info.version,
            service=info.service,
            task=info.task,
            ready=info.state == model_pb2.MODEL_STATE_READY,
            state=STATES.get(info.state, f"state {info.state}"),
            inputs=tuple(Tensor(found.name, found.datatype, tuple(found.shape)) for found in info.inputs),
            outputs=tuple(Tensor(found.name, found.datatype, tuple(found.shape)) for found in info.outputs),
            labels=tuple(info.labels),
            classes=tuple(info.classes),
            max_batch_size=info.max_batch_size,
            is_default=info.is_default,
            digest=info.digest,
            stateful=info.stateful,
            max_horizon=info.max_horizon,
            max_steps=info.max_steps,
            max_tokens=info.max_tokens,
            description=info.description,
            card=json.loads(info.card_json) if info.card_json else {},
        )


def classification(classes: Iterable[classes_pb2.RankedClass], served: Served) -> Classification:
    """The answer to one image, series or text."""
    return Classification(classes=_ranked(classes), **fields_of(served))


def embedding(values: Iterable[float], served: Served) -> Embedding:
    """The vector of one image or text."""
    return Embedding(values=tuple(values), **fields_of(served))


def forecast(message: sequence_pb2.ForecastResponse, served: Served) -> Forecast:
    """The steps that follow a series."""
    return Forecast(values=tuple(message.values), **fields_of(served))


def track_answers(message: sequence_pb2.TrackResponse, model: str) -> list[TrackAnswer]:
    """The answers to the steps of one response of a stream that `model` answers; the last one has the state."""
    last = len(message.steps) - 1
    return [
        TrackAnswer(
            step=found.step,
            classes=_ranked(found.classes),
            values=tuple(found.values),
            state=message.state if place == last else b"",
            model=model,
        )
        for place, found in enumerate(message.steps)
    ]


def _ranked(classes: Iterable[classes_pb2.RankedClass]) -> tuple[RankedClass, ...]:
    return tuple(RankedClass(found.label, found.index, found.probability) for found in classes)


def fields_of(served: Served) -> dict[str, Any]:
    """The fields of Served as arguments of an answer that adds its own."""
    return {name: getattr(served, name) for name in Served.__dataclass_fields__}


def _number(trailers: Trailers, key: str) -> int | None:
    value = trailers.get(key, "")
    return int(value) if value.isascii() and value.isdigit() else None
