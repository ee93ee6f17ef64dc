"""Classifier: a text to classes and to its vector, by the bundle's features; arrays alone."""

from collections.abc import Mapping

import numpy as np

from services.kit.errors import InputTooLarge, InvalidField
from services.kit.inference import ranking
from services.kit.inference.bundle import Array, Manifest
from services.kit.inference.manifest import NgramFeatures, Postprocessing
from services.kit.inference.ranking import RankedClass
from services.language.features import Ngrams


class Classifier:
    """What stands before and behind the engine of a model that takes texts and has no tokens."""

    def __init__(self, manifest: Manifest, features: NgramFeatures, steps: Postprocessing) -> None:
        self._features, self._steps, self._labels = features, steps, manifest.classes
        self._ngrams = Ngrams(features)

    def inputs(self, text: str, field: str) -> dict[str, Array]:
        """The graph's inputs, one row.

        Raises:
            InvalidField: there is nothing to see in the text.
            InputTooLarge: it is too long.
        """
        limit = self._features.max_characters
        if len(text) > limit:
            raise InputTooLarge(
                f"{field} has {len(text)} characters and this model takes {limit}",
                field=field,
                limit=str(limit),
                value=str(len(text)),
            )
        ids = self._ngrams.ids(text)
        if not ids.any():
            raise InvalidField(f"{field} has no visible character", field=field, limit="1", value="0")
        return {self._features.input: ids[np.newaxis]}

    def rank(self, outputs: Mapping[str, Array], top_k: int) -> list[RankedClass]:
        """The most probable classes of one row, best first."""
        return ranking.rank(outputs[self._steps.scores][0], self._labels, top_k, softmax=self._steps.softmax)

    def embedding(self, outputs: Mapping[str, Array]) -> Array:
        """The vector of one row, float32 [width]; of a model that has one."""
        assert self._steps.embedding is not None
        vector: Array = outputs[self._steps.embedding][0]
        return vector
