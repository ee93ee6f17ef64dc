"""The committed classifiers of texts against the networks that they were exported from, and against their promises."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.engine import EngineSettings
from services.kit.inference.verification import verified_engine
from services.kit.training import evaluation
from services.kit.training.export import check_parity, interface, session
from services.language.features import Ngrams
from services.language.training.card import Card
from services.language.training.classifier import SUBJECTS, TextClassifier, predict
from services.language.training.classifier_cards import CARDS
from services.language.training.classifier_export import OUTPUTS
from services.language.training.labelled import Split
from services.language.training.naive_bayes import LAPLACE, NaiveBayes
from services.language.training.recipes import FOLDER, digest

BATCHES = (1, 2, 3, 8, 64)
LENGTHS = (16, 64, 512)  # features of a row
MIB = 1 << 20


@pytest.fixture(params=CARDS, ids=lambda card: card.name, scope="module")
def card(request: pytest.FixtureRequest) -> Card:
    found: Card = request.param
    return found


@pytest.fixture(scope="module")
def bundle(card: Card) -> Bundle:
    return bundles.load(FOLDER / card.name / "1")


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> bytes:
    return (bundle.path / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def split(card: Card) -> Split:
    return SUBJECTS[card.name].load()


def some_rows(buckets: int, length: int) -> Array:
    """int64 [64, length]: more than half of each row are features, as the service has it; the last row has none."""
    random = np.random.default_rng(length)
    rows = random.integers(1, buckets + 1, (64, length))
    for row in rows:
        row[random.integers(length // 2 + 1, length + 1) :] = 0
    rows[-1] = 0
    return rows


def restored(card: Card, model: bytes) -> TextClassifier:
    """The network with the weights that are in the graph."""
    network = TextClassifier.of(SUBJECTS[card.name])
    constants = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load_from_string(model).graph.initializer
    }
    table = constants["table"].float()
    network.load_state_dict(
        {"table.weight": table, **{name: constants[name] for name in ("scale", "classes.weight", "classes.bias")}}
    )
    return network.eval()


def test_training_again_would_change_nothing(card: Card, bundle: Bundle) -> None:
    assert bundle.manifest.training is not None
    assert bundle.manifest.training.digest == digest(card), "run `make models` and commit what it writes"


def test_a_service_takes_the_bundle(bundle: Bundle) -> None:
    engine, _ = verified_engine(bundle, EngineSettings(device="cpu"))
    assert {spec.name for spec in engine.inputs} == {"features"}


def test_the_manifest_says_how_a_text_becomes_what_the_graph_takes(card: Card, bundle: Bundle, model: bytes) -> None:
    inputs, outputs = interface(model)
    manifest, subject = bundle.manifest, SUBJECTS[card.name]
    assert manifest.features == subject.features
    assert [(spec.name, spec.datatype, spec.shape) for spec in inputs] == [(subject.features.input, "INT64", (-1, -1))]
    assert (manifest.outputs, manifest.classes) == (outputs, subject.classes)
    assert outputs[0].shape == (-1, len(subject.classes))
    assert onnx.load_from_string(model).opset_import[0].version == manifest.opset
    (table,) = (tensor for tensor in onnx.load_from_string(model).graph.initializer if tensor.name == "table")
    assert table.data_type == onnx.TensorProto.INT8
    assert table.dims[0] == subject.features.buckets + 1
    assert not numpy_helper.to_array(table)[0].any()


@pytest.mark.parametrize("length", LENGTHS)
def test_the_graph_computes_what_the_network_does(card: Card, model: bytes, length: int) -> None:
    rows = some_rows(SUBJECTS[card.name].features.buckets, length)
    assert check_parity(restored(card, model), model, {"features": rows}, OUTPUTS, BATCHES) < 1e-5


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_row_gets_the_same_bits_alone_and_among_others(card: Card, model: bytes, threads: int, length: int) -> None:
    loaded, rows = session(model, threads), some_rows(SUBJECTS[card.name].features.buckets, length)
    alone = [loaded.run(list(OUTPUTS), {"features": row[np.newaxis]}) for row in rows]
    for count in BATCHES:
        together = loaded.run(list(OUTPUTS), {"features": rows[-count:]})
        for output, values in enumerate(together):
            found = [row.tobytes() for row in values]
            assert found == [row[output].tobytes() for row in alone[-count:]], (OUTPUTS[output], count)


def test_one_thread_and_two_compute_the_same_bits(card: Card, model: bytes) -> None:
    for length in LENGTHS:
        rows = some_rows(SUBJECTS[card.name].features.buckets, length)
        one, two = (session(model, threads).run(list(OUTPUTS), {"features": rows}) for threads in (1, 2))
        assert [array.tobytes() for array in one] == [array.tobytes() for array in two]


def test_padding_does_not_change_what_a_text_is(card: Card, model: bytes) -> None:
    rows = some_rows(SUBJECTS[card.name].features.buckets, 64)
    wider = np.pad(rows, ((0, 0), (0, 448)))
    loaded = session(model)
    for narrow, wide in zip(
        loaded.run(list(OUTPUTS), {"features": rows}), loaded.run(list(OUTPUTS), {"features": wider}), strict=True
    ):
        assert np.allclose(narrow, wide, atol=1e-5)
    embedding = loaded.run(["embedding"], {"features": rows})[0]
    assert not embedding[-1].any(), "a row without features has no direction"


def test_the_held_out_figures_are_what_the_manifest_says(
    card: Card, bundle: Bundle, model: bytes, split: Split
) -> None:
    metrics, subject = bundle.manifest.metrics, SUBJECTS[card.name]
    assert metrics is not None
    for place, (name, texts) in enumerate(split.held_out.items()):
        predicted = predict(model, subject.features, texts.texts)
        table = evaluation.confusion(np.array(texts.labels), predicted, len(subject.classes))
        assert evaluation.accuracy(table) == pytest.approx(metrics.values[name], abs=0.002)
        if place == 0:
            assert metrics.samples == len(texts)
            assert np.abs(table - np.array(metrics.confusion)).sum() <= 0.004 * len(texts)
            assert metrics.classes.keys() == set(subject.classes)


def test_naive_bayes_gets_right_what_the_manifest_says(card: Card, bundle: Bundle, split: Split) -> None:
    metrics = bundle.manifest.metrics
    assert metrics is not None
    name, texts = next(iter(split.held_out.items()))
    again = NaiveBayes(split.train, len(bundle.manifest.classes)).accuracies(texts)
    assert again[LAPLACE] == pytest.approx(metrics.values[f"{name}_naive_bayes"], abs=0.002)
    assert max(again.values()) == pytest.approx(metrics.values[f"{name}_naive_bayes_best"], abs=0.002)


def figures(name: str) -> dict[str, float]:
    metrics = bundles.load(FOLDER / name / "1").manifest.metrics
    assert metrics is not None
    return dict(metrics.values)


def test_languages_are_told_apart_at_least_as_well_as_by_naive_bayes() -> None:
    values = figures("langid-text")
    assert values["accuracy"] >= 0.95
    assert values["accuracy"] >= values["accuracy_naive_bayes"]
    assert values["accuracy_first_16_characters"] >= 0.9


def test_topics_of_known_words_are_found_and_of_new_ones_far_more_often_than_by_chance() -> None:
    values = figures("topics-zh")
    assert values["accuracy_known_words"] >= 0.9
    assert values["accuracy_written"] >= 0.85
    assert values["accuracy"] >= 0.6
    assert values["accuracy"] >= values["accuracy_naive_bayes"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("langid-text", "Der Zug nach Hamburg fährt heute leider nicht.", "de"),
        ("langid-text", "The quick brown fox jumps over the lazy dog.", "en"),
        ("langid-text", "Le chat dort sur le canapé du salon.", "fr"),
        ("langid-text", "お名前を入力してください。", "ja"),
        ("langid-text", "请输入有效的电子邮件地址。", "zh"),
        ("langid-text", "Пожалуйста, введите правильный адрес.", "ru"),
        ("topics-zh", "明天下午有雷阵雨，记得带伞", "天气"),
        ("topics-zh", "这支球队在决赛里踢进了两个球", "体育"),
        ("topics-zh", "央行下调利率，股市大涨", "财经"),
        ("topics-zh", "晚饭做了红烧肉和一锅鸡汤", "美食"),
    ],
)
def test_some_texts_of_ones_own(name: str, text: str, expected: str) -> None:
    bundle = bundles.load(FOLDER / name / "1")
    features = bundle.manifest.features
    assert features is not None
    row = Ngrams(features).ids(text)[np.newaxis]
    logits = session((bundle.path / "model.onnx").read_bytes()).run(["logits"], {features.input: row})[0]
    assert bundle.manifest.classes[int(logits.argmax())] == expected


def test_the_graph_holds_no_path_of_the_machine_that_exported_it(model: bytes) -> None:
    assert b".py" not in model
    assert str(Path.cwd()).encode() not in model


def test_the_bundles_are_small_enough_to_be_committed() -> None:
    sizes = {path: path.stat().st_size for card in CARDS for path in (FOLDER / card.name).rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 4 * MIB
    assert max(sizes.values()) <= 4 * MIB
