"""The committed vision bundles against the networks that they were exported from, and against their own promises."""

import itertools
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from PIL import Image, ImageDraw, ImageFont

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from services.kit.training.export import check_parity, interface, session
from services.vision.fitting import fit, mode
from services.vision.training import network as networks
from services.vision.training.card import Card
from services.vision.training.export import OUTPUTS, predict
from services.vision.training.recipes import CARDS, FOLDER, SAMPLES, digest
from services.vision.training.train import held_out

BATCHES = (1, 2, 3, 5, 8, 16, 64)
MIB = 1 << 20


@pytest.fixture(params=CARDS, ids=lambda card: card.name)
def card(request: pytest.FixtureRequest) -> Card:
    found: Card = request.param
    return found


@pytest.fixture
def bundle(card: Card) -> Bundle:
    return bundles.load(FOLDER / card.name / "1")


@pytest.fixture
def model(bundle: Bundle) -> bytes:
    return (bundle.path / "model.onnx").read_bytes()


@pytest.fixture
def images(bundle: Bundle) -> np.ndarray[Any, np.dtype[np.uint8]]:
    shape = bundle.manifest.inputs[0].shape[1:]
    return np.random.default_rng(5).integers(0, 256, (64, *shape), np.uint8)


def test_training_again_would_change_nothing(card: Card, bundle: Bundle) -> None:
    assert bundle.manifest.training is not None
    assert bundle.manifest.training.digest == digest(card), "run `make models` and commit what it writes"


def test_known_answers_hold(bundle: Bundle, model: bytes) -> None:
    bundles.verify_files(bundle)
    inputs, expected = bundles.known_answers(bundle)
    actual = dict(zip(expected, session(model).run(list(expected), inputs), strict=True))
    assert bundles.compare_known_answers(expected, actual, rtol=1e-4, atol=1e-4) is None


def test_the_manifest_describes_the_graph(bundle: Bundle, model: bytes) -> None:
    assert interface(model) == (bundle.manifest.inputs, bundle.manifest.outputs)
    assert onnx.load_from_string(model).opset_import[0].version == bundle.manifest.opset


def test_the_graph_computes_what_the_network_does(
    card: Card, model: bytes, images: np.ndarray[Any, np.dtype[np.uint8]]
) -> None:
    network: torch.nn.Module = getattr(networks, card.network)()
    weights = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load_from_string(model).graph.initializer
        if tensor.name in network.state_dict()
    }
    network.load_state_dict(weights)
    assert check_parity(network, model, {"image": images}, OUTPUTS, BATCHES) < 1e-4


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_gets_the_same_bits_alone_and_among_others(
    model: bytes, images: np.ndarray[Any, np.dtype[np.uint8]], threads: int
) -> None:
    loaded: ort.InferenceSession = session(model, threads)
    alone = [loaded.run(list(OUTPUTS), {"image": images[row : row + 1]}) for row in range(len(images))]
    for rows in BATCHES:
        together = loaded.run(list(OUTPUTS), {"image": images[-rows:]})
        for output, values in enumerate(together):
            for row in range(rows):
                assert values[row].tobytes() == alone[len(images) - rows + row][output].tobytes()


def test_the_held_out_accuracy_is_what_the_manifest_says(card: Card, bundle: Bundle, model: bytes) -> None:
    metrics = bundle.manifest.metrics
    assert metrics is not None
    right = total = 0
    for name, (pixels, labels) in held_out(card.network).parts.items():
        hits = int((predict(model, pixels) == labels).sum())
        accuracy = metrics.values[f"accuracy_{name}"] if len(metrics.values) > 1 else metrics.values["accuracy"]
        assert hits / len(labels) == pytest.approx(accuracy, abs=0.003)
        assert accuracy >= 0.97
        right, total = right + hits, total + len(labels)
    assert total == metrics.samples
    assert right / total == pytest.approx(metrics.values["accuracy"], abs=0.003)
    assert sum(map(sum, metrics.confusion)) == total


def test_the_graph_holds_no_path_of_the_machine_that_exported_it(model: bytes) -> None:
    assert b".py" not in model
    assert str(Path.cwd()).encode() not in model


def test_the_bundles_are_small_enough_to_be_committed() -> None:
    sizes = {path: path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 3 * MIB
    assert max(sizes.values()) <= 4 * MIB


@pytest.mark.parametrize("name", ["digits-lenet", "digits-cnn"])
def test_digits_unlike_any_trained_on_are_mostly_recognised(name: str) -> None:
    """Printed ones of a font that no training saw, as large as a page of a phone's drawing program."""
    bundle = bundles.load(FOLDER / name / "1")
    steps = bundle.manifest.preprocessing
    assert steps is not None
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 150)
    pictures = []
    for digit, paper in itertools.product(range(10), (255, 0)):
        picture = Image.new("L", (200, 200), paper)
        ImageDraw.Draw(picture).text((100, 100), str(digit), font=font, fill=255 - paper, anchor="mm")
        pictures.append(fit(picture, steps))
    predicted = predict((bundle.path / "model.onnx").read_bytes(), np.stack(pictures))
    assert int((predicted == np.repeat(np.arange(10), 2)).sum()) >= 18


def test_the_sample_images_show_what_their_names_say() -> None:
    for name, pattern in (("digits-lenet", "[0-9]-*.png"), ("digits-cnn", "[0-9]-*.png"), ("shapes-rgb", "[a-z]*.png")):
        bundle = bundles.load(FOLDER / name / "1")
        steps = bundle.manifest.preprocessing
        assert steps is not None
        paths = sorted(SAMPLES.glob(pattern))
        assert len(paths) >= 3
        pixels = np.stack([fit(Image.open(path).convert(mode(steps)), steps) for path in paths])
        predicted = predict((bundle.path / "model.onnx").read_bytes(), pixels)
        labels = [bundle.manifest.classes[index] for index in predicted]
        assert labels == [path.name.split("-")[0] for path in paths], name
