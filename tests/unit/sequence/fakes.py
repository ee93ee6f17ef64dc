"""A recurrent model for tests of what is around it: its answers can be told beforehand, and its batcher obeys the test.

"echo" has one number a step, and its state is the sum of all numbers so far and their count. As a classifier its scores
for the classes "least", "middle" and "most" are (0, sum, 2 * sum); as a forecaster it says that each of the next three
steps will be the sum.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from services.kit.deadline import Deadline
from services.kit.errors import ModelNotFound
from services.kit.inference.bundle import Array
from services.kit.inference.job import Output
from services.kit.inference.manifest import Manifest, Postprocessing, Recurrence, TensorSpec
from services.kit.inference.model import Model
from services.sequence.pipeline import Pipeline

MAX_STEPS, HORIZON, STATE_WIDTH = 100, 3, 2
CLASSES = ("least", "middle", "most")


def manifest(
    kind: str = "classifier", *, width: int = 1, bidirectional: bool = False, allow_non_finite: bool = False
) -> Manifest:
    """Of a "classifier", a "forecaster", a model with "values" alone, or one of "tensors"."""
    names = {"classifier": "logits", "forecaster": "forecast", "values": "y", "tensors": "y"}
    numbers = {"classifier": len(CLASSES), "forecaster": HORIZON * width, "values": 3, "tensors": 3}
    tasks: dict[str, Any] = {"classifier": "sequence-classification", "forecaster": "time-series-forecasting"}
    recurrence = Recurrence(
        "x",
        names[kind],
        "gru",
        layers=1,
        hidden=STATE_WIDTH,
        max_steps=MAX_STEPS,
        horizon=HORIZON if kind == "forecaster" else 0,
        bidirectional=bidirectional,
        allow_non_finite=allow_non_finite,
    )
    return Manifest(
        format=1,
        service="sequence",
        task=tasks.get(kind, "tensors"),
        description="",
        inputs=(TensorSpec("x", "FP32", (-1, -1, width)),),
        outputs=(TensorSpec(names[kind], "FP32", (-1, -1, numbers[kind])),),
        max_batch=8,
        opset=21,
        files={"model.onnx": "0" * 64},
        classes=CLASSES if kind == "classifier" else (),
        postprocessing=Postprocessing("logits", softmax=True) if kind == "classifier" else None,
        recurrence=None if kind == "tensors" else recurrence,
    )


class FakeBatcher:
    """Computes at once, or when the test lets it; every submission is noted."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.open = asyncio.Event()
        self.open.set()
        self.submitted: list[tuple[Mapping[str, Array], int, bool]] = []  # inputs, steps, admitted
        self.followed: list[bool] = []
        self.error: Exception | None = None

    @property
    def lengths(self) -> list[int]:
        """Steps of each submission's first row, without the padding."""
        return [int(inputs["lengths"][0]) for inputs, _, _ in self.submitted]

    async def submit(
        self,
        inputs: Mapping[str, Array],
        deadline: Deadline,
        *,
        steps: int = 1,
        admitted: bool = False,
        followed: bool = False,
    ) -> Output:
        self.followed.append(followed)
        self.submitted.append((dict(inputs), steps, admitted))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return Output(self._arrays(inputs), 0.25, 0.5, 3)

    def _arrays(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        x, lengths = inputs["x"], inputs["lengths"]
        rows = len(x)
        state = inputs.get("state", np.zeros((rows, STATE_WIDTH), np.float32))
        [spec] = self._manifest.outputs
        factors = np.arange(3) if spec.name == "logits" else np.ones(spec.shape[2])
        with np.errstate(over="ignore", invalid="ignore"):  # some tests want that
            sums = np.cumsum(x[:, :, 0], axis=1, dtype=np.float32) + state[:, :1]
            answers = (sums[:, :, None] * factors).astype(np.float32)
        answers[:, lengths[0] :] = np.nan  # padding must not get out
        after = np.stack((sums[range(rows), lengths - 1], state[:, 1] + lengths), axis=1).astype(np.float32)
        return {spec.name: answers, "next_state": after} if "state" in inputs else {spec.name: answers}


class FakeModel:
    """What the service sees of a model."""

    report, must_support, trailers = Model.report, Model.must_support, Model.trailers

    def __init__(self, name: str, manifest_: Manifest) -> None:
        self.name, self.version, self.manifest = name, 1, manifest_
        self.digest = hashlib.sha256(name.encode()).digest()
        self.pipeline = Pipeline.of(manifest_)
        self.batcher = FakeBatcher(manifest_)


class FakeModels:
    """find() as Models has it: an empty name is the first that supports the method."""

    def __init__(self, **manifests: Manifest) -> None:
        self.known = {name: FakeModel(name, found) for name, found in manifests.items()}

    def __getitem__(self, name: str) -> Any:
        return self.known[name]

    def find(self, name: str, supports: Callable[[Manifest], bool]) -> FakeModel:
        if name:
            if name not in self.known:
                raise ModelNotFound(f"model {name!r} is not served here", model=name)
            return self.known[name]
        return next((m for m in self.known.values() if supports(m.manifest)), next(iter(self.known.values())))


def model(**changes: Any) -> Any:
    """One model, as the service takes it."""
    return FakeModel("echo", manifest(**changes))
