import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.kit.errors import StartupError
from services.kit.inference import bundle as bundles
from services.kit.inference import manifest_file
from services.kit.inference.manifest import ClassMetrics, Metrics, Training
from tests import bundles as tiny


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((path / "manifest.json").read_text("utf-8"))
    change(content)
    (path / "manifest.json").write_text(json.dumps(content), "utf-8")


def test_discover_sorts_by_name_and_version_and_passes_over_other_services(tmp_path: Path) -> None:
    for name, version, service in (("b", 1, "vision"), ("a", 10, "vision"), ("a", 9, "vision"), ("c", 1, "sequence")):
        tiny.fixed(tmp_path, name, version, service=service)
    (tmp_path / "README.md").write_text("not a bundle")
    (tmp_path / ".hidden").mkdir()

    found = bundles.discover([tmp_path, tmp_path], "vision")

    assert [(bundle.name, bundle.version) for bundle in found] == [("a", 9), ("a", 10), ("b", 1)]


@pytest.mark.parametrize("below", [".", "fixed", "fixed/1"])
def test_a_folder_at_the_wrong_level_names_the_right_one(tmp_path: Path, below: str) -> None:
    folder = tmp_path / "bundles"
    tiny.fixed(folder)
    if below == ".":
        assert bundles.discover([folder], "vision")
        return
    with pytest.raises(StartupError) as raised:
        bundles.discover([folder / below], "vision")
    assert raised.value.hint.endswith(f"which may be {folder}")


def test_the_same_version_twice_names_both_paths(tmp_path: Path) -> None:
    paths = [tiny.fixed(tmp_path / folder).path for folder in ("one", "two")]

    with pytest.raises(StartupError, match="exists twice") as raised:
        bundles.discover([tmp_path / "one", tmp_path / "two"], "vision")

    assert all(str(path) in str(raised.value) for path in paths)


def test_a_folder_that_does_not_exist_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="nowhere") as raised:
        bundles.discover([tmp_path / "nowhere"], "vision")
    assert "BUNDLES_DIR" in raised.value.hint


@pytest.mark.parametrize(
    ("name", "version"), [("Name", "1"), ("-a", "1"), ("a" * 64, "1"), ("a", "0"), ("a", "01"), ("a", "v1")]
)
def test_a_wrong_name_or_version_is_refused(tmp_path: Path, name: str, version: str) -> None:
    (tmp_path / name / version).mkdir(parents=True)
    (tmp_path / name / version / "model.onnx").touch()
    with pytest.raises(StartupError, match="is no"):
        bundles.discover([tmp_path], "vision")


def test_a_model_without_manifest_is_refused(tmp_path: Path) -> None:
    (tiny.fixed(tmp_path).path / "manifest.json").unlink()
    with pytest.raises(StartupError, match=r"manifest\.json: cannot be read"):
        bundles.discover([tmp_path], "vision")


WRONG: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("tasc: unknown key; did you mean task", lambda m: m.update(tasc="tensors")),
    ("max_batch: missing", lambda m: m.pop("max_batch")),
    ("max_batch: True is not of type int", lambda m: m.update(max_batch=True)),
    ("max_batch: must be 0 or more", lambda m: m.update(max_batch=-1)),
    ("task: 'magic' is none of", lambda m: m.update(task="magic")),
    ("format: 2 is none of", lambda m: m.update(format=2)),
    ("classes: 'red' is no list", lambda m: m.update(classes="red")),
    ("classes: a label occurs twice", lambda m: m.update(classes=["red", "red", "blue"])),
    ("classes: 2 labels for scores of shape", lambda m: m.update(classes=["red", "blue"])),
    (r"inputs\[0\]\.datatype: 'FP33' is none of", lambda m: m["inputs"][0].update(datatype="FP33")),
    (r"inputs\[0\]\.shape\[1\]: '8' is not of type int", lambda m: m["inputs"][0].update(shape=[-1, "8"])),
    (r"inputs\[0\]\.shape: dimension 0 must be -1", lambda m: m["inputs"][0].update(shape=[1, 8, 8, 3])),
    (r"outputs\[1\]\.shape: sizes are positive", lambda m: m["outputs"][1].update(shape=[-1, 0])),
    ("outputs: a name occurs twice", lambda m: m["outputs"].append(m["outputs"][0])),
    (r"files\.\.\./model: is no plain file name", lambda m: m["files"].update({"../model": "0" * 64})),
    (r"files\.model\.onnx: is no SHA-256", lambda m: m["files"].update({"model.onnx": "abc"})),
    (r"preprocessing\.width: missing", lambda m: m["preprocessing"].pop("width")),
    (r"preprocessing: no input is named 'image'", lambda m: m["preprocessing"].update(width=9)),
    (r"preprocessing\.mean: must have 1 or 3", lambda m: m["preprocessing"].update(mean=[1.0, 2.0])),
    (r"preprocessing\.scale: pixels stay as they are", lambda m: m["preprocessing"].update(scale=0.5)),
    ("preprocessing: missing", lambda m: m.pop("preprocessing")),
    (r"postprocessing\.scores: 'probabilities' is no", lambda m: m["postprocessing"].update(scores="probabilities")),
    (r"postprocessing\.embedding: 'nothing' is no", lambda m: m["postprocessing"].update(embedding="nothing")),
]


@pytest.mark.parametrize(("message", "change"), WRONG, ids=[message for message, _ in WRONG])
def test_a_wrong_manifest_names_the_file_and_the_key(
    tmp_path: Path, message: str, change: Callable[[dict[str, Any]], object]
) -> None:
    path = tiny.colours(tmp_path).path
    rewrite(path, change)
    with pytest.raises(StartupError, match=message) as raised:
        bundles.discover([tmp_path], "vision")
    assert str(path / "manifest.json") in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 1, "format": 1}', '{"max_batch": NaN}', "[" * 100_000, "\udcff"]
)
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tiny.fixed(tmp_path).path / "manifest.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StartupError, match=r"manifest\.json"):
        manifest_file.load(path)


def test_a_full_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    full = dataclasses.replace(
        tiny.colours(tmp_path).manifest,
        training=Training("data", "source", "CC BY 4.0", "0" * 64, 7, {"torch": "2.13.0"}),
        metrics=Metrics("held out", 3, {"accuracy": 0.5}, {"red": ClassMetrics(1, 0.5, 0.25, 3)}, ((3, 0), (1, 2))),
        limits=("not [\n 1,\n 2\n] much",),
    )
    text = manifest_file.to_json(full)
    (tmp_path / "manifest.json").write_text(text, "utf-8")
    assert manifest_file.load(tmp_path / "manifest.json") == full
    assert "[3, 0]" in text


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    bundle = tiny.fixed(tmp_path)
    bundles.verify_files(bundle)
    model = bundle.path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    with pytest.raises(StartupError, match=r"model\.onnx: its SHA-256 is"):
        bundles.verify_files(bundle)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    bundle = tiny.fixed(tmp_path)
    (bundle.path / "known_answers.npz").unlink()
    with pytest.raises(StartupError, match=r"known_answers\.npz: is missing"):
        bundles.verify_files(bundle)


def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    bundle = tiny.fixed(tmp_path)
    (bundle.path / "model.onnx.data").touch()
    with pytest.raises(StartupError, match=r"model\.onnx\.data: is not listed"):
        bundles.verify_files(bundle)


def test_a_manifest_that_does_not_list_the_model_is_refused(tmp_path: Path) -> None:
    path = tiny.fixed(tmp_path).path
    rewrite(path, lambda m: m["files"].pop("model.onnx"))
    with pytest.raises(StartupError, match=r"files\.model\.onnx: missing"):
        bundles.verify_files(bundles.load(path))


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BOOL", "BYTES"])
def test_known_answers_come_back_by_name(tmp_path: Path, datatype: str) -> None:
    inputs, outputs = bundles.known_answers(tiny.identity(tmp_path, datatype=datatype))
    assert inputs.keys() == {"x"}
    assert bundles.compare_known_answers(outputs, {"y": inputs["x"]}, rtol=0, atol=0) is None


def test_damaged_known_answers_are_refused(tmp_path: Path) -> None:
    bundle = tiny.fixed(tmp_path)
    (bundle.path / "known_answers.npz").write_bytes(b"PK rubbish")
    with pytest.raises(StartupError, match=r"known_answers\.npz: cannot be read"):
        bundles.known_answers(bundle)


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        ({}, "output 'y' is missing"),
        ({"y": np.zeros((1, 2), np.float32)}, r"\[1, 2\] instead of float32 \[2\]"),
        ({"y": np.zeros(2)}, "float64"),
        ({"y": np.array([1, 2.1], np.float32)}, r"2\.\d+ instead of 2\.0 at \[1\]"),
        ({"y": np.array([np.nan, 2], np.float32)}, r"nan instead of 1\.0 at \[0\]"),
    ],
)
def test_a_wrong_answer_is_described(actual: dict[str, bundles.Array], message: str) -> None:
    expected: dict[str, bundles.Array] = {"y": np.array([1, 2], np.float32)}
    difference = bundles.compare_known_answers(expected, actual, rtol=1e-3, atol=1e-3)
    assert difference is not None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(difference)


def test_a_close_answer_is_right() -> None:
    expected: dict[str, bundles.Array] = {"y": np.array([1, np.inf, np.nan], np.float32)}
    actual: dict[str, bundles.Array] = {"y": np.array([1.0005, np.inf, np.nan], np.float32)}
    assert bundles.compare_known_answers(expected, actual, rtol=1e-3, atol=0) is None


def test_labels_map_to_versions(tmp_path: Path) -> None:
    assert bundles.labels(tmp_path) == {}
    bundles.write_labels(tmp_path, {"stable": 2, "canary": 3})
    assert bundles.labels(tmp_path) == {"stable": 2, "canary": 3}


@pytest.mark.parametrize("text", ["[]", '{"stable": "1"}', '{"stable": 0}', '{"Stable!": 1}', "{"])
def test_wrong_labels_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(StartupError, match=r"labels\.json"):
        bundles.labels(tmp_path)


def test_writing_again_replaces_the_bundle_and_leaves_nothing_else(tmp_path: Path) -> None:
    first = tiny.identity(tmp_path, "model", width=4)
    second = tiny.identity(tmp_path, "model", width=5)
    assert bundles.load(first.path) == second
    assert bundles.digest(first) != bundles.digest(second)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["1"]
    bundles.verify_files(second)


def test_a_bundle_that_cannot_be_served_is_not_written(tmp_path: Path) -> None:
    good = tiny.fixed(tmp_path)
    wrong = dataclasses.replace(good.manifest, max_batch=4)
    with pytest.raises(StartupError, match="dimension 0 must be -1"):
        bundles.write(tmp_path, "fixed", 1, model=b"", manifest=wrong, inputs={}, outputs={})
    bundles.verify_files(bundles.load(good.path))
    assert [path.name for path in (tmp_path / "fixed").iterdir()] == ["1"]
