"""Results: messages and trailing metadata become plain values."""

import pytest

from trivium.client.results import Model, Served, Tensor, classification, forecast, track_answers
from trivium.common.v1 import classes_pb2, model_pb2
from trivium.sequence.v1 import sequence_pb2
from trivium.vision.v1 import vision_pb2


def test_the_trailing_metadata_says_who_answered_and_where_the_time_went() -> None:
    trailers = {
        "trivium-model": "digits-cnn",
        "trivium-version": "3",
        "trivium-instance": "vision-1",
        "trivium-queue-us": "12",
        "trivium-compute-us": "480",
        "trivium-batch-size": "4",
        "trivium-attempts": "2",
    }
    assert Served.of(trailers) == Served(
        model="digits-cnn", version=3, instance="vision-1", queue_us=12, compute_us=480, batch_size=4, attempts=2
    )


@pytest.mark.parametrize("value", ["", "-1", "x", "²"])
def test_a_number_that_is_none_is_missing(value: str) -> None:
    assert Served.of({"trivium-queue-us": value}).queue_us is None


def test_a_classification_names_its_best_class() -> None:
    message = vision_pb2.ClassifyResponse(
        classes=[
            classes_pb2.RankedClass(label="seven", index=7, probability=0.75),
            classes_pb2.RankedClass(label="one", index=1, probability=0.25),
        ]
    )
    answer = classification(message.classes, Served(model="digits-cnn", version=1))
    assert (answer.label, answer.probability, answer.model, answer.version) == ("seven", 0.75, "digits-cnn", 1)
    assert [found.index for found in answer.classes] == [7, 1]


def test_a_model_carries_its_tensors_and_its_card() -> None:
    info = model_pb2.ModelInfo(
        name="digits-cnn",
        version=2,
        state=model_pb2.MODEL_STATE_UNLOADED,
        inputs=[model_pb2.TensorInfo(name="image", datatype="FP32", shape=[-1, 1, 28, 28])],
        card_json='{"accuracy": 0.99}',
        stateful=True,
        max_horizon=12,
        max_steps=4096,
    )
    model = Model.of(info)
    assert (model.ready, model.state) == (False, "unloaded")
    assert model.inputs == (Tensor("image", "FP32", (-1, 1, 28, 28)),)
    assert model.card == {"accuracy": 0.99}
    assert (model.stateful, model.max_horizon, model.max_steps) == (True, 12, 4096)
    assert Model.of(model_pb2.ModelInfo(name="x")).card == {}


def test_a_forecast_has_its_steps_and_who_made_it() -> None:
    answer = forecast(sequence_pb2.ForecastResponse(values=[1.5, 2.5]), Served(model="sunspots-lstm", version=1))
    assert (answer.values, answer.model) == ((1.5, 2.5), "sunspots-lstm")


def test_the_answer_to_a_step_has_its_classes_or_values_and_the_state() -> None:
    classes = [classes_pb2.RankedClass(label="7", index=7, probability=0.75)]
    steps = [sequence_pb2.TrackedStep(step=3, classes=classes)]
    (ranked,) = track_answers(sequence_pb2.TrackResponse(steps=steps, state=b"state"), "digits-rnn:1")
    assert (ranked.step, ranked.label, ranked.probability, ranked.values) == (3, "7", 0.75, ())
    assert (ranked.state, ranked.model) == (b"state", "digits-rnn:1")
    steps = [sequence_pb2.TrackedStep(step=4, values=[0.5])]
    (valued,) = track_answers(sequence_pb2.TrackResponse(steps=steps), "sunspots-lstm:1")
    assert (valued.classes, valued.values, valued.state) == ((), (0.5,), b"")


def test_of_many_steps_in_one_message_the_last_has_the_state() -> None:
    steps = [sequence_pb2.TrackedStep(step=step, values=[step / 2]) for step in (5, 6, 7)]
    answers = track_answers(sequence_pb2.TrackResponse(steps=steps, state=b"state"), "sunspots-lstm:1")
    assert [(one.step, one.values, one.state) for one in answers] == [
        (5, (2.5,), b""),
        (6, (3.0,), b""),
        (7, (3.5,), b"state"),
    ]
    assert {one.model for one in answers} == {"sunspots-lstm:1"}
