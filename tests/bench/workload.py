"""Workload: requests of one method for one model, each with the answer that it must get."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from inference import grpc_service_pb2
from services.kit.deadline import Deadline
from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.engine import Engine
from services.kit.inference.ranking import RankedClass
from services.vision.decoder import Decoder
from services.vision.pipeline import Pipeline
from trivium.vision.v1 import vision_pb2

Kind = Literal["Classify", "ModelInfer"]
PATHS: dict[Kind, str] = {
    "Classify": "/trivium.vision.v1.VisionService/Classify",
    "ModelInfer": "/inference.GRPCInferenceService/ModelInfer",
}
TOLERANCE = 1e-3  # of a probability, or of a score relative to the largest one


@dataclass(frozen=True, slots=True)
class Answer:
    """The best class and its probability (Classify) or its score (ModelInfer)."""

    index: int
    value: float


@dataclass(frozen=True, slots=True)
class Workload:
    """What the generator sends, in turn, and expects."""

    model: str
    kind: Kind
    requests: tuple[bytes, ...]
    answers: tuple[Answer, ...]

    @property
    def name(self) -> str:
        """The model and the method."""
        return f"{self.model} {self.kind}"

    @property
    def path(self) -> str:
        """The method as gRPC names it."""
        return PATHS[self.kind]

    def is_right(self, index: int, response: bytes) -> bool:
        """Whether this is the answer to that request."""
        got, wanted = READERS[self.kind](response), self.answers[index]
        return got.index == wanted.index and abs(got.value - wanted.value) <= TOLERANCE * max(abs(wanted.value), 1)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under test: its bundle, its workloads, and the same inputs as arrays for the bare engine."""

    bundle: Bundle
    workloads: tuple[Workload, ...]
    inputs: tuple[dict[str, Array], ...]  # each of one row
    outputs: tuple[str, ...]


async def subject(bundle: Bundle, files: Sequence[bytes], engine: Engine, decoder: Decoder) -> Subject:
    """The workloads of a bundle that classifies images; the answers are the engine's own, each image computed alone.

    Raises:
        ValueError: the bundle takes no images, or gives all of them the same class, which would prove nothing.
    """
    pipeline = Pipeline.of(bundle.manifest)
    if pipeline is None:
        raise ValueError(f"bundle {bundle.name} takes no images")
    outputs = tuple(spec.name for spec in bundle.manifest.outputs)
    inputs, classes, tensors = [], [], []
    for file in files:
        pixels = await decoder.decode(file, pipeline.preprocessing, Deadline.after(60))
        inputs.append(pipeline.prepare(pixels))
        arrays = dict(zip(outputs, engine.run(inputs[-1], outputs), strict=True))
        classes.append(_of_class(pipeline.rank(arrays, 1)[0]))
        tensors.append(_of_scores(arrays[outputs[0]]))
    if len({answer.index for answer in classes}) < 2:
        raise ValueError(f"{bundle.name} finds the same class in all of the benchmark's images")
    images = [vision_pb2.ClassifyRequest(model=bundle.name, image=file).SerializeToString() for file in files]
    raw = [infer_request(bundle, arrays).SerializeToString() for arrays in inputs]
    workloads = (
        Workload(bundle.name, "Classify", tuple(images), tuple(classes)),
        Workload(bundle.name, "ModelInfer", tuple(raw), tuple(tensors)),
    )
    return Subject(bundle, workloads, tuple(inputs), outputs)


def infer_request(bundle: Bundle, inputs: dict[str, Array]) -> grpc_service_pb2.ModelInferRequest:
    """The inputs as raw tensors."""
    request = grpc_service_pb2.ModelInferRequest(model_name=bundle.name)
    for spec in bundle.manifest.inputs:
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=inputs[spec.name].shape)
        request.raw_input_contents.append(inputs[spec.name].tobytes())
    return request


def _read_classes(response: bytes) -> Answer:
    best = vision_pb2.ClassifyResponse.FromString(response).classes[0]
    return Answer(best.index, best.probability)


def _read_tensors(response: bytes) -> Answer:
    message = grpc_service_pb2.ModelInferResponse.FromString(response)
    return _of_scores(np.frombuffer(message.raw_output_contents[0], np.float32))


READERS = {"Classify": _read_classes, "ModelInfer": _read_tensors}


def _of_class(best: RankedClass) -> Answer:
    return Answer(best.index, best.probability)


def _of_scores(scores: Array) -> Answer:
    index = int(scores.argmax())
    return Answer(index, float(scores.reshape(-1)[index]))
