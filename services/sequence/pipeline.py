"""Pipeline: the values of a request to a model's input, and its outputs to classes and forecasts; arrays alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from services.kit.errors import InputTooLarge, InvalidField
from services.kit.inference import ranking
from services.kit.inference.bundle import Array, Manifest
from services.kit.inference.manifest import Recurrence
from services.kit.inference.ranking import RankedClass


def classifies(manifest: Manifest) -> bool:
    """Whether the bundle takes series and ranks classes."""
    return manifest.recurrence is not None and manifest.postprocessing is not None


def tracks(manifest: Manifest) -> bool:
    """Whether the bundle answers step by step."""
    return manifest.stateful


def forecasts(manifest: Manifest) -> bool:
    """Whether the bundle continues series."""
    return manifest.recurrence is not None and manifest.recurrence.horizon > 0


class Pipeline:
    """What stands before and behind one model's engine."""

    def __init__(self, manifest: Manifest, recurrence: Recurrence) -> None:
        self.recurrence = recurrence
        self.classifies = manifest.postprocessing is not None
        self.width = manifest.inputs[0].shape[2]  # numbers of one step
        steps = manifest.postprocessing
        self._softmax = steps is not None and steps.softmax
        self._output = recurrence.output if steps is None else steps.scores
        self._labels = manifest.classes

    @classmethod
    def of(cls, manifest: Manifest) -> "Pipeline | None":
        """The pipeline of a bundle; None for one that takes tensors and no series."""
        return None if manifest.recurrence is None else cls(manifest, manifest.recurrence)

    def check_width(self, request: Any) -> None:
        """Raises InvalidField where the request's optional field `width` is not the model's."""
        if request.HasField("width") and request.width != self.width:
            raise InvalidField(
                f"width is {request.width}, and a step of this model has {self.width} numbers",
                field="width",
                limit=str(self.width),
                value=str(request.width),
            )

    def steps(self, values: Sequence[float]) -> int:
        """How many steps the values of a request are; asked before `series`, which costs time for each of them.

        Raises:
            InvalidField: they are no whole steps.
        """
        steps, rest = divmod(len(values), self.width)
        if rest:
            raise InvalidField(
                f"values holds {len(values)} numbers, and a step of this model has {self.width}",
                field="values",
                limit=str(self.width),
                value=str(len(values)),
            )
        return steps

    def series(self, values: Sequence[float]) -> Array:
        """The values of a request, whole steps, as float32 [steps, width].

        Raises:
            InvalidField: they are not finite where that is refused.
        """
        x = np.array(values, np.float32)
        self.check_finite(x, "values")
        return x.reshape(-1, self.width)

    def check_finite(self, x: Array, field: str) -> None:
        """Raises InvalidField for NaN and infinity, unless the bundle allows them."""
        if self.recurrence.allow_non_finite or np.isfinite(x).all():
            return
        index = int(np.flatnonzero(~np.isfinite(x))[0])
        value = str(x.reshape(-1)[index])
        raise InvalidField(
            f"{field}[{index}] is {value}, and this model takes finite numbers", field=field, value=value
        )

    def check_length(self, steps: int, field: str, taken: int = 0) -> None:
        """Whether so many steps after those that were `taken` are a series of this model.

        Raises:
            InvalidField: there is none.
            InputTooLarge: there are too many.
        """
        if taken + steps < 1:
            raise InvalidField(f"{field} is empty: a series has at least one step", field=field, limit="1", value="0")
        limit = self.recurrence.max_steps
        if taken + steps > limit:
            before = f" after the {taken} before them" if taken else ""
            raise InputTooLarge(
                f"{field} has {steps} steps{before} and a series of this model has at most {limit}",
                field=field,
                limit=str(limit),
                value=str(taken + steps),
            )

    def said(self, outputs: Mapping[str, Array]) -> Array:
        """What the model says after each step, float32 [steps, numbers].

        Args:
            outputs: of one row, by name: [1, steps, ...].
        """
        array: Array = outputs[self._output][0]
        return array.reshape(len(array), -1)

    def rank(self, scores: Array, top_k: int) -> list[RankedClass]:
        """The most probable classes, best first.

        Args:
            scores: float32 [classes], after one step.

        Raises:
            InvalidField: the values were so extreme that the scores are no finite numbers.
        """
        self.check_said(scores)
        return ranking.rank(scores, self._labels, top_k, softmax=self._softmax)

    def rank_steps(self, scores: Array, top_k: int) -> list[list[RankedClass]]:
        """The most probable classes after each step, of finite scores, float32 [steps, classes]."""
        return ranking.rank_rows(scores, self._labels, top_k, softmax=self._softmax)

    def forecast(self, said: Array, horizon: int) -> list[float]:
        """The first `horizon` steps of a forecast.

        Raises:
            InvalidField: the values were so extreme that these are no finite numbers.
        """
        self.check_said(said)
        values: list[float] = said[: horizon * self.width].tolist()
        return values

    def sound(self, said: Array) -> int:
        """After how many of the steps, from the first one on, the model has said what `check_said` lets pass.

        Args:
            said: float32 [steps, numbers].
        """
        if not self.classifies and self.recurrence.allow_non_finite:
            return len(said)
        finite = np.isfinite(said).all(axis=1)
        return len(said) if finite.all() else int(finite.argmin())

    def check_said(self, said: Array) -> None:
        """Whether what the model says can be answered.

        Raises:
            InvalidField: the values were so extreme that it is no finite numbers.
        """
        if not self.classifies and self.recurrence.allow_non_finite:
            return
        if not np.isfinite(said).all():
            raise InvalidField(
                "the model's answer to these values is no finite number: they are too large for it",
                field="values",
                executed="yes",
            )
