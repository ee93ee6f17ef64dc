"""Pipeline: pixels to a model's input, and its outputs to ranked classes and embeddings; arrays and nothing else."""

from collections.abc import Mapping

import numpy as np

from services.kit.errors import TriviumError
from services.kit.inference import ranking
from services.kit.inference.bundle import Array
from services.kit.inference.datatypes import NUMPY
from services.kit.inference.manifest import ImagePreprocessing, Manifest, Postprocessing
from services.kit.inference.ranking import RankedClass


def classifies(manifest: Manifest) -> bool:
    """Whether the bundle takes images and ranks classes."""
    return manifest.preprocessing is not None and manifest.postprocessing is not None


def embeds(manifest: Manifest) -> bool:
    """Whether the bundle takes images and has an embedding output."""
    return (
        classifies(manifest) and manifest.postprocessing is not None and manifest.postprocessing.embedding is not None
    )


class Pipeline:
    """What stands before and behind one model's engine.

    Args:
        preprocessing: from pixels to the input.
        postprocessing: which outputs mean what.
        classes: labels by index.
    """

    def __init__(
        self, preprocessing: ImagePreprocessing, postprocessing: Postprocessing, classes: tuple[str, ...]
    ) -> None:
        self.preprocessing, self._post, self._classes = preprocessing, postprocessing, classes
        self._plain = preprocessing.datatype == "UINT8"
        self._mean = np.array(preprocessing.mean, np.float32)
        self._std = np.array(preprocessing.std, np.float32)

    @classmethod
    def of(cls, manifest: Manifest) -> "Pipeline | None":
        """The pipeline of a bundle; None for one that takes tensors and no images."""
        if manifest.preprocessing is None or manifest.postprocessing is None:
            return None
        return cls(manifest.preprocessing, manifest.postprocessing, manifest.classes)

    def prepare(self, image: Array) -> dict[str, Array]:
        """The model's input by name, one row: [1, height, width, channels] or [1, channels, height, width].

        Args:
            image: uint8 [height, width, channels], of the size that the model takes.
        """
        steps = self.preprocessing
        if not self._plain:
            scaled = (image * np.float32(steps.scale) - self._mean) / self._std
            image = scaled.astype(NUMPY[steps.datatype], copy=False)
        if steps.layout == "NCHW":
            image = np.ascontiguousarray(image.transpose(2, 0, 1))
        return {steps.input: image[np.newaxis]}

    def rank(self, outputs: Mapping[str, Array], top_k: int) -> list[RankedClass]:
        """The most probable classes, best first, of equal ones the lower index first; at most `top_k`.

        Args:
            outputs: of one row, by name; scores [1, classes].

        Raises:
            TriviumError: the model gave scores that are no finite numbers.
        """
        scores = outputs[self._post.scores].reshape(-1)
        if not np.isfinite(scores).all():
            raise TriviumError("the model gave scores that are no finite numbers", stage="encode", executed="yes")
        return ranking.rank(scores, self._classes, top_k, softmax=self._post.softmax)

    def embedding(self, outputs: Mapping[str, Array]) -> list[float]:
        """The vector of one row; only for a bundle that `embeds`."""
        assert self._post.embedding is not None
        vector: list[float] = outputs[self._post.embedding].reshape(-1).tolist()
        return vector
