"""From the numbers of a request to steps, and from a network's outputs to classes and forecasts."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from services.kit.errors import InputTooLarge, InvalidField
from services.kit.inference.manifest import Manifest, Postprocessing
from services.sequence.pipeline import Pipeline, classifies, forecasts, tracks
from tests.unit.sequence.fakes import MAX_STEPS, manifest
from trivium.sequence.v1 import sequence_pb2 as pb


def pipeline(kind: str = "forecaster", **changes: Any) -> Pipeline:
    found = Pipeline.of(manifest(kind, **changes))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("found", "can"),
    [
        (manifest("classifier"), (True, True, False)),
        (manifest("forecaster"), (False, True, True)),
        (manifest("values"), (False, True, False)),
        (manifest("tensors"), (False, False, False)),
        (manifest("classifier", bidirectional=True), (True, False, False)),
        (manifest("forecaster", bidirectional=True), (False, False, True)),
    ],
)
def test_the_manifest_says_what_a_bundle_can_do(found: Manifest, can: tuple[bool, bool, bool]) -> None:
    assert (classifies(found), tracks(found), forecasts(found)) == can


def test_a_bundle_of_tensors_has_no_pipeline() -> None:
    assert Pipeline.of(manifest("tensors")) is None


@pytest.mark.parametrize(("width", "count"), [(1, 0), (1, 1), (1, 64), (2, 2), (2, 6), (5, 0), (5, 20)])
def test_values_are_cut_into_steps(width: int, count: int) -> None:
    assert pipeline(width=width).steps(range(count)) == count // width
    x = pipeline(width=width).series(range(count))
    assert (str(x.dtype), x.shape) == ("float32", (count // width, width))
    assert x.reshape(-1).tolist() == list(range(count))


@pytest.mark.parametrize(("width", "count"), [(2, 1), (2, 7), (5, 4), (5, 21)])
def test_a_broken_step_is_refused(width: int, count: int) -> None:
    with pytest.raises(InvalidField, match=f"values holds {count} numbers, and a step of this model has {width}") as e:
        pipeline(width=width).steps(range(count))
    assert e.value.metadata == {"field": "values", "limit": str(width), "value": str(count)}


def test_a_width_that_the_caller_states_must_be_the_models() -> None:
    taken = pipeline(width=2)
    taken.check_width(pb.ForecastRequest())
    taken.check_width(pb.ForecastRequest(width=2))
    for width in (0, 1, 3):
        with pytest.raises(InvalidField, match=f"width is {width}, and a step of this model has 2 numbers") as error:
            taken.check_width(pb.ForecastRequest(width=width))
        assert error.value.metadata["field"] == "width"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, 3, 5])
def test_what_is_no_finite_number_is_refused_by_its_place(value: float, index: int) -> None:
    values = [1.0] * 6
    values[index] = value
    with pytest.raises(InvalidField) as caught:
        pipeline(width=2).series(values)
    assert str(caught.value).startswith(f"values[{index}] is {value}")
    assert caught.value.metadata == {"field": "values", "value": str(value)}


def test_a_bundle_may_allow_it() -> None:
    values = [math.nan, math.inf, -math.inf]
    assert np.array_equal(pipeline(allow_non_finite=True).series(values)[:, 0], values, equal_nan=True)


@pytest.mark.parametrize(("steps", "taken"), [(1, 0), (MAX_STEPS, 0), (1, MAX_STEPS - 1), (40, 60)])
def test_a_series_may_be_as_long_as_the_bundle_says(steps: int, taken: int) -> None:
    pipeline().check_length(steps, "values", taken)


@pytest.mark.parametrize(("steps", "taken"), [(MAX_STEPS + 1, 0), (1, MAX_STEPS), (41, 60), (1, 2**64 - 1)])
def test_a_longer_one_is_refused(steps: int, taken: int) -> None:
    with pytest.raises(InputTooLarge) as caught:
        pipeline().check_length(steps, "values", taken)
    assert caught.value.metadata == {"field": "values", "limit": str(MAX_STEPS), "value": str(steps + taken)}


def test_an_empty_series_is_refused() -> None:
    with pytest.raises(InvalidField, match="values is empty") as caught:
        pipeline().check_length(0, "values")
    assert caught.value.metadata == {"field": "values", "limit": "1", "value": "0"}


def test_what_a_model_says_is_one_row_of_numbers_for_each_step() -> None:
    outputs = {"forecast": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)}
    assert pipeline().said(outputs).tolist() == [list(range(12)), list(range(12, 24))]


def test_scores_may_be_another_output_than_that_of_the_steps() -> None:
    both = manifest("classifier")
    both = dataclasses.replace(both, postprocessing=Postprocessing("scores", softmax=False))
    found = Pipeline.of(both)
    assert found is not None
    zeros, scores = np.zeros((1, 1, 3), np.float32), np.array([[[0.25, 0.5, 0.25]]], np.float32)
    said = found.said({"logits": zeros, "scores": scores})[0]
    assert [(best.label, best.probability) for best in found.rank(said, 1)] == [("middle", 0.5)]


def test_classes_are_ranked_with_their_probabilities() -> None:
    ranked = pipeline("classifier").rank(np.array([0, math.log(3), math.log(6)], np.float32), 2)
    assert [(found.label, found.index) for found in ranked] == [("most", 2), ("middle", 1)]
    assert [found.probability for found in ranked] == [pytest.approx(0.6), pytest.approx(0.3)]


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_a_forecast_has_as_many_steps_as_were_asked_for(width: int, horizon: int) -> None:
    said = np.arange(3 * width, dtype=np.float32)
    assert pipeline(width=width).forecast(said, horizon) == list(range(horizon * width))


@pytest.mark.parametrize("said", [[0, math.nan, 0], [math.inf, 0, 0], [math.inf, -math.inf, 0]])
def test_an_answer_that_is_no_finite_number_is_the_callers_error(said: list[float]) -> None:
    array = np.array(said, np.float32)
    for ask in (
        lambda: pipeline().check_said(array),
        lambda: pipeline().forecast(array, 1),
        lambda: pipeline("classifier").rank(array, 1),
    ):
        with pytest.raises(InvalidField, match="they are too large for it") as caught:
            ask()
        assert caught.value.metadata == {"field": "values", "executed": "yes"}


@pytest.mark.parametrize("at", range(4))
def test_steps_before_an_answer_that_is_no_finite_number_are_sound(at: int) -> None:
    said = np.ones((4, 3), np.float32)
    for found in (pipeline(), pipeline("classifier", allow_non_finite=True)):
        assert found.sound(said) == 4
    said[at, at % 3] = math.nan
    for found in (pipeline(), pipeline("classifier", allow_non_finite=True)):
        assert found.sound(said) == at
    assert pipeline(allow_non_finite=True).sound(said) == 4


def test_large_numbers_whose_sum_overflows_are_finite() -> None:
    said = np.full(3, 3e38, np.float32)
    assert pipeline().forecast(said, 3) == [np.float32(3e38)] * 3
    assert pipeline().sound(said[np.newaxis]) == 1


def test_a_bundle_that_takes_infinity_may_answer_with_it() -> None:
    assert pipeline(allow_non_finite=True).forecast(np.array([math.inf, 1, 2], np.float32), 2) == [math.inf, 1]


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("classes", [1, 3, 10, 37, 200])
def test_many_steps_are_ranked_to_the_bit_as_one_by_one(classes: int, *, softmax: bool) -> None:
    one = manifest("classifier")
    names = tuple(f"class {number}" for number in range(classes))
    post = Postprocessing("logits", softmax=softmax)
    found = Pipeline.of(dataclasses.replace(one, classes=names, postprocessing=post))
    assert found is not None
    scores = np.random.default_rng(classes).normal(scale=9, size=(32, classes)).astype(np.float32)
    scores[5] = 1  # equal ones: the lower index first
    for steps in (1, 2, 31, 32):
        assert found.rank_steps(scores[:steps], 5) == [found.rank(row, 5) for row in scores[:steps]]
