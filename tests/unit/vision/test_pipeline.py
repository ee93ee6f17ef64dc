"""Pixels in the model's layout and datatype; classes in order, with probabilities that can be trusted."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.kit.errors import TriviumError
from services.kit.inference.manifest import ImagePreprocessing, Manifest, Postprocessing, TensorSpec
from services.kit.inference.ranking import softmaxed
from services.vision.pipeline import Pipeline, classifies, embeds

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)  # height 2, width 4


def pipeline(*, softmax_: bool = True, classes: tuple[str, ...] = ("a", "b", "c"), **changes: object) -> Pipeline:
    defaults = {"input": "image", "width": 4, "height": 2, "channels": "rgb", "layout": "NHWC", "datatype": "UINT8"}
    steps = ImagePreprocessing(**{**defaults, **changes})  # type: ignore[arg-type]
    return Pipeline(steps, Postprocessing("logits", softmax=softmax_, embedding="features"), classes)


def ranked(scores: list[float], top_k: int, **changes: bool) -> list[tuple[str, int, float]]:
    found = pipeline(**changes).rank({"logits": np.array([scores], np.float32)}, top_k)  # type: ignore[arg-type]
    return [(one.label, one.index, one.probability) for one in found]


def test_plain_pixels_go_to_the_graph_as_they_are() -> None:
    ((name, batch),) = pipeline().prepare(IMAGE).items()
    assert (name, batch.shape) == ("image", (1, 2, 4, 3))
    assert batch.dtype == np.uint8
    assert (batch[0] == IMAGE).all()


@pytest.mark.parametrize("datatype", ["UINT8", "FP16", "FP32"])
def test_channels_come_first_where_the_model_wants_them_so(datatype: str) -> None:
    batch = pipeline(layout="NCHW", datatype=datatype).prepare(IMAGE)["image"]
    assert batch.shape == (1, 3, 2, 4)
    assert batch.flags["C_CONTIGUOUS"]
    assert (batch[0] == IMAGE.transpose(2, 0, 1)).all()


@pytest.mark.parametrize(("datatype", "dtype"), [("FP32", np.float32), ("FP16", np.float16)])
def test_pixels_are_scaled_then_centred_then_divided_for_each_channel(datatype: str, dtype: type) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    batch = pipeline(datatype=datatype, scale=1 / 255, mean=mean, std=std).prepare(IMAGE)["image"]
    assert batch.dtype == dtype
    expected = (IMAGE / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(batch[0], expected, rtol=2e-3, atol=1e-4)


def test_grey_pixels_have_one_channel() -> None:
    grey = IMAGE[..., :1]
    batch = pipeline(channels="grey", layout="NCHW", datatype="FP32", scale=2.0).prepare(grey)["image"]
    assert batch.shape == (1, 1, 2, 4)
    assert (batch[0, 0] == grey[..., 0] * 2.0).all()


def test_the_image_itself_is_never_changed() -> None:
    before = IMAGE.copy()
    pipeline(datatype="FP32", scale=0.5, mean=(1.0,), std=(3.0,)).prepare(IMAGE)
    assert (before == IMAGE).all()


def test_classes_are_ranked_best_first_with_their_probabilities() -> None:
    found = ranked([0.0, math.log(6), math.log(3)], 2)
    assert [(label, index) for label, index, _ in found] == [("b", 1), ("c", 2)]
    assert [probability for *_, probability in found] == pytest.approx([0.6, 0.3])


def test_of_equal_classes_the_lower_index_comes_first() -> None:
    assert [index for _, index, _ in ranked([1.0, 2.0, 2.0], 3)] == [1, 2, 0]
    assert [index for _, index, _ in ranked([0.0, 0.0, 0.0], 3)] == [0, 1, 2]


def test_a_model_with_fewer_classes_returns_all_of_them() -> None:
    assert len(ranked([1.0, 2.0, 3.0], 100)) == 3


def test_scores_that_are_probabilities_stay_as_they_are() -> None:
    assert ranked([0.25, 0.5, 0.25], 1, softmax_=False) == [("b", 1, 0.5)]


def test_a_class_without_a_label_is_called_by_its_index() -> None:
    found = pipeline(classes=()).rank({"logits": np.array([[0.0, 1.0]], np.float32)}, 1)
    assert [(one.label, one.index) for one in found] == [("1", 1)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_our_fault_and_no_answer(bad: float) -> None:
    with pytest.raises(TriviumError) as caught:
        ranked([0.0, bad, 1.0], 1)
    assert type(caught.value) is TriviumError
    assert caught.value.metadata["executed"] == "yes"


@pytest.mark.parametrize("shift", [-1e30, -1e4, 0.0, 1e4, 1e30])
def test_softmax_is_the_same_wherever_the_logits_lie(shift: float) -> None:
    logits = np.array([shift, shift, shift])
    np.testing.assert_allclose(softmaxed(logits), [1 / 3] * 3, rtol=1e-6)


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_probabilities_sum_to_one_and_keep_the_order(scores: np.ndarray) -> None:
    probabilities = softmaxed(scores.astype(np.float64))
    assert probabilities.dtype == np.float32
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    found = pipeline(classes=()).rank({"logits": scores[np.newaxis]}, len(scores))
    assert sorted(one.index for one in found) == list(range(len(scores)))
    assert all(scores[a.index] >= scores[b.index] for a, b in itertools.pairwise(found))
    assert all(a.probability >= b.probability for a, b in itertools.pairwise(found))


def test_an_embedding_is_the_row_of_its_output() -> None:
    assert pipeline().embedding({"features": np.array([[1.5, -2.0]], np.float32)}) == [1.5, -2.0]


def test_what_a_bundle_can_do_is_told_by_its_manifest() -> None:
    spec = (TensorSpec("image", "UINT8", (-1, 2, 4, 3)),)
    plain = Manifest(1, "vision", "tensors", "", spec, (TensorSpec("logits", "FP32", (-1, 3)),), 1, 21, {})
    assert (classifies(plain), embeds(plain), Pipeline.of(plain)) == (False, False, None)
    steps = pipeline().preprocessing
    for embedding in (None, "features"):
        manifest = Manifest(
            1, "vision", "image-classification", "", spec, (TensorSpec("logits", "FP32", (-1, 3)),), 1, 21, {},
            ("a", "b", "c"), steps, Postprocessing("logits", softmax=True, embedding=embedding),
        )  # fmt: skip
        assert classifies(manifest)
        assert embeds(manifest) == (embedding is not None)
        assert Pipeline.of(manifest) is not None
