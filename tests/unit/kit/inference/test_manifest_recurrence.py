"""What a manifest says of a recurrent graph: read, written, and refused where it contradicts itself."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from services.kit.inference import manifest_file
from services.kit.inference.manifest import Manifest, Postprocessing, Recurrence, TensorSpec
from services.kit.inference.manifest_check import check
from services.kit.inference.strict_json import Mismatch

CLASSIFIER = Manifest(
    format=1,
    service="sequence",
    task="sequence-classification",
    description="",
    inputs=(TensorSpec("x", "FP32", (-1, -1, 2)),),
    outputs=(TensorSpec("logits", "FP32", (-1, -1, 3)),),
    max_batch=64,
    opset=21,
    files={},
    classes=("a", "b", "c"),
    postprocessing=Postprocessing("logits", softmax=True),
    recurrence=Recurrence("x", "logits", "lstm", layers=2, hidden=5, max_steps=100),
)
FORECASTER = dataclasses.replace(
    CLASSIFIER,
    task="time-series-forecasting",
    outputs=(TensorSpec("forecast", "FP32", (-1, -1, 8)),),
    classes=(),
    postprocessing=None,
    recurrence=Recurrence("x", "forecast", "gru", layers=2, hidden=5, max_steps=100, horizon=4),
)


def changed(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest with other values; those whose names a recurrence has go there."""
    names = Recurrence.__dataclass_fields__
    assert manifest.recurrence is not None
    recurrence = dataclasses.replace(
        manifest.recurrence, **{name: value for name, value in changes.items() if name in names}
    )
    rest = {name: value for name, value in changes.items() if name not in names}
    return dataclasses.replace(manifest, **{"recurrence": recurrence, **rest})


def outputs(*shape: int, name: str = "logits") -> tuple[TensorSpec, ...]:
    return (TensorSpec(name, "FP32", shape),)


@pytest.mark.parametrize(
    "manifest",
    [
        CLASSIFIER,
        FORECASTER,
        changed(CLASSIFIER, bidirectional=True, allow_non_finite=True),
        changed(FORECASTER, outputs=outputs(-1, -1, 4, 2, name="forecast")),
        changed(CLASSIFIER, outputs=(*outputs(-1, -1, 3), TensorSpec("features", "FP32", (-1, -1, 7)))),
    ],
)
def test_a_right_one_comes_back_as_it_was_written(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "manifest.json").write_text(manifest_file.to_json(manifest), "utf-8")
    assert manifest_file.load(tmp_path / "manifest.json") == manifest


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (changed(CLASSIFIER, layers=0), "recurrence.layers: must be 1 or more"),
        (changed(CLASSIFIER, hidden=-1), "recurrence.hidden: must be 1 or more"),
        (changed(CLASSIFIER, max_steps=0), "recurrence.max_steps: must be 1 or more"),
        (changed(CLASSIFIER, input="y"), "recurrence.input: 'y' must be the input"),
        (
            changed(CLASSIFIER, inputs=(*CLASSIFIER.inputs, TensorSpec("lengths", "INT32", (-1,)))),
            "recurrence.input: 'x' must be the input",
        ),
        (
            changed(CLASSIFIER, inputs=(TensorSpec("x", "FP32", (-1, 2)),)),
            "recurrence.input: must be FP32 [-1, -1, width], is FP32 [-1, 2]",
        ),
        (
            changed(CLASSIFIER, inputs=(TensorSpec("x", "FP32", (-1, -1, -1)),)),
            "recurrence.input: must be FP32 [-1, -1, width], is FP32 [-1, -1, -1]",
        ),
        (
            changed(CLASSIFIER, inputs=(TensorSpec("x", "FP64", (-1, -1, 2)),)),
            "recurrence.input: must be FP32 [-1, -1, width], is FP64 [-1, -1, 2]",
        ),
        (changed(CLASSIFIER, outputs=outputs(-1, 3)), "outputs: of a recurrent model are [-1, -1, ...], 'logits'"),
        (changed(FORECASTER, outputs=outputs(-1, -1)), "outputs: of a recurrent model are [-1, -1, ...], 'logits'"),
        (changed(FORECASTER, outputs=outputs(-1, -1, -1, name="forecast")), "outputs: of a recurrent model"),
        (changed(CLASSIFIER, output="nothing"), "recurrence.output: 'nothing' is no output"),
        (changed(CLASSIFIER, horizon=4), "recurrence.horizon: is for forecasts alone"),
        (changed(FORECASTER, horizon=0), "recurrence.horizon: is for forecasts alone"),
        (
            changed(FORECASTER, horizon=5),
            "recurrence.horizon: 5 steps of width 2 are not the 8 numbers of the output",
        ),
        (dataclasses.replace(CLASSIFIER, recurrence=None), "recurrence: missing, task sequence-classification"),
        (dataclasses.replace(FORECASTER, recurrence=None), "recurrence: missing, task time-series-forecasting"),
        (changed(CLASSIFIER, postprocessing=None), "postprocessing: missing, task sequence-classification"),
        (changed(CLASSIFIER, classes=()), "classes: empty, task sequence-classification"),
        (changed(CLASSIFIER, classes=("a", "b")), "classes: 2 labels for scores of shape [-1, -1, 3]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_contradiction_is_named_by_its_key(manifest: Manifest, says: str) -> None:
    with pytest.raises(Mismatch) as caught:
        check(manifest)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("manifest", "width", "stateful"),
    [
        (changed(CLASSIFIER, cell="rnn"), 10, True),
        (changed(CLASSIFIER, cell="gru"), 10, True),
        (changed(CLASSIFIER, cell="lstm"), 20, True),
        (changed(CLASSIFIER, cell="lstm", bidirectional=True), 0, False),
    ],
)
def test_a_state_has_the_numbers_of_all_layers_and_of_an_lstm_twice_as_many(
    manifest: Manifest, width: int, stateful: bool
) -> None:
    assert manifest.recurrence is not None
    assert (manifest.recurrence.state_width, manifest.stateful) == (width, stateful)


def test_a_model_of_tensors_is_not_stateful() -> None:
    assert not dataclasses.replace(CLASSIFIER, recurrence=None).stateful
