"""SequenceService's promises about whole series, and which model may answer what."""

from typing import Any

import numpy as np
import pytest

from services.kit.errors import InputTooLarge, InvalidField, ModelNotFound, Overloaded, TriviumError, UnsupportedByModel
from services.kit.inference.ranking import softmaxed
from services.kit.transport.method import methods_of
from services.sequence.servicer import SequenceServicer
from tests.unit.sequence.fakes import MAX_STEPS, FakeModels
from tests.unit.sequence.tracking import SETTINGS, call, failure, message, tracked
from trivium.sequence.v1 import sequence_pb2 as pb


def test_every_method_of_the_service_is_served_and_track_is_a_live_stream(servicer: SequenceServicer) -> None:
    methods = methods_of(servicer)
    assert len(methods) == len(SequenceServicer.service.methods) == 3
    assert [path.split("/")[-1] for path, method in methods.items() if method.live] == ["Track"]


async def test_classify_ranks_the_classes_after_the_last_step(servicer: SequenceServicer) -> None:
    this = call()
    response = await servicer.classify(pb.ClassifyRequest(model="classes", values=[0.5, 1, -0.5]), this)
    assert [found.label for found in response.classes] == ["most", "middle", "least"]
    assert [found.probability for found in response.classes] == softmaxed(np.arange(3) * 1.0)[::-1].tolist()
    assert ("trivium-model", "classes") in this.trailers
    assert this.stages.keys() == {"decode", "queue", "compute", "encode"}


async def test_forecast_continues_a_series_of_wider_steps(servicer: SequenceServicer) -> None:
    response = await servicer.forecast(pb.ForecastRequest(values=[1, 9, 2, 9], horizon=2), call())
    assert list(response.values) == [3.0] * 4
    response = await servicer.forecast(pb.ForecastRequest(values=[1, 9]), call())
    assert list(response.values) == [1.0] * 6


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 16, 17, MAX_STEPS])
async def test_a_long_series_is_computed_in_windows_and_changes_nothing(
    servicer: SequenceServicer, models: FakeModels, steps: int
) -> None:
    response = await servicer.classify(pb.ClassifyRequest(model="classes", values=[0.01] * steps, top_k=1), call())
    assert response.classes[0].label == "most"
    batcher = models["classes"].batcher
    full, rest = divmod(steps, SETTINGS.window_steps)
    assert batcher.lengths == [8] * full + ([rest] if rest else [])
    assert [admitted for *_, admitted in batcher.submitted] == [False] + [True] * (len(batcher.submitted) - 1)
    for inputs, bucket, _ in batcher.submitted:
        assert inputs["x"].shape == (1, bucket, 1)
        assert bucket in (1, 2, 4, 8)
        assert bucket < 2 * inputs["lengths"][0]


async def test_a_bidirectional_model_reads_whole_series_in_one_run(
    servicer: SequenceServicer, models: FakeModels
) -> None:
    await servicer.classify(pb.ClassifyRequest(model="both_ways", values=[1.0] * 33), call())
    [(inputs, bucket, _)] = models["both_ways"].batcher.submitted
    assert (inputs.keys(), bucket, inputs["lengths"].tolist()) == ({"x", "lengths"}, 64, [33])


@pytest.mark.parametrize("horizon", [0, 4, 2**32 - 1])
async def test_a_horizon_out_of_range_is_refused(servicer: SequenceServicer, horizon: int) -> None:
    with pytest.raises(InvalidField) as caught:
        await servicer.forecast(pb.ForecastRequest(values=[1, 2], horizon=horizon), call())
    assert caught.value.metadata == {"field": "horizon", "limit": "[1, 3]", "value": str(horizon)}


@pytest.mark.parametrize("top_k", [0, 101])
async def test_a_top_k_out_of_range_is_refused(servicer: SequenceServicer, top_k: int) -> None:
    with pytest.raises(InvalidField) as caught:
        await servicer.classify(pb.ClassifyRequest(model="classes", values=[1], top_k=top_k), call())
    assert caught.value.metadata["field"] == "top_k"
    _, error = await failure(servicer, message(1, model="classes", top_k=top_k))
    assert error.metadata["field"] == "top_k"


@pytest.mark.parametrize(("values", "kind"), [([], InvalidField), ([1.0] * (MAX_STEPS + 1), InputTooLarge)])
async def test_a_series_has_at_least_one_step_and_no_more_than_the_limit(
    servicer: SequenceServicer, models: FakeModels, values: list[float], kind: type[TriviumError]
) -> None:
    with pytest.raises(kind) as caught:
        await servicer.classify(pb.ClassifyRequest(model="classes", values=values), call())
    assert caught.value.metadata["field"] == "values"
    assert models["classes"].batcher.submitted == []


async def test_a_failure_of_the_batcher_happened_in_the_stage_queue(
    servicer: SequenceServicer, models: FakeModels
) -> None:
    models["classes"].batcher.error = Overloaded("full")
    this = call()
    with pytest.raises(Overloaded):
        await servicer.classify(pb.ClassifyRequest(model="classes", values=[1]), this)
    assert this.stage == "queue"


async def test_an_empty_name_asks_the_first_model_that_can(servicer: SequenceServicer) -> None:
    this = call()
    await servicer.classify(pb.ClassifyRequest(values=[1]), this)
    assert ("trivium-model", "classes") in this.trailers
    assert (await tracked(servicer, message(1)))[0].model == "classes:1"


@pytest.mark.parametrize(
    ("method", "name", "says"),
    [
        ("classify", "plain", "no classes for a series"),
        ("classify", "forecast", "no classes for a series"),
        ("forecast", "classes", "no forecast"),
        ("forecast", "plain", "no forecast"),
    ],
)
async def test_a_model_that_cannot_answer_says_so(
    servicer: SequenceServicer, method: str, name: str, says: str
) -> None:
    kinds: dict[str, Any] = {"classify": pb.ClassifyRequest, "forecast": pb.ForecastRequest}
    request = kinds[method](model=name, values=[1, 2])
    with pytest.raises(UnsupportedByModel, match=says) as caught:
        await getattr(servicer, method)(request, call())
    assert caught.value.metadata["model"] == name


@pytest.mark.parametrize(("name", "says"), [("plain", "no state between steps"), ("both_ways", "is bidirectional")])
async def test_a_model_without_state_cannot_track(servicer: SequenceServicer, name: str, says: str) -> None:
    answers, error = await failure(servicer, message(1, model=name))
    assert (answers, type(error)) == ([], UnsupportedByModel)
    assert says in error.message


async def test_an_unknown_model_is_not_found(servicer: SequenceServicer) -> None:
    assert type((await failure(servicer, message(1, model="nobody")))[1]) is ModelNotFound
