import dataclasses
from pathlib import Path

import pytest

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from services.kit.inference.manifest import Training
from services.kit.training.recipe import Recipe, make
from tests import bundles as tiny


class Kitchen:
    """A recipe for the tiny bundle `fixed` that counts how often it was followed."""

    def __init__(self) -> None:
        self.builds = 0

    def recipe(self, digest: str) -> Recipe:
        def build(folder: Path) -> Bundle:
            self.builds += 1
            raw = tiny.fixed(folder)
            inputs, outputs = bundles.known_answers(raw)
            training = Training("data", "source", "licence", digest, 0, {})
            manifest = dataclasses.replace(raw.manifest, training=training)
            model = (raw.path / "model.onnx").read_bytes()
            return bundles.write(folder, "fixed", 1, model=model, manifest=manifest, inputs=inputs, outputs=outputs)

        return Recipe("fixed", 1, digest, build)


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


def test_a_missing_bundle_is_made_and_labelled_stable(tmp_path: Path, kitchen: Kitchen) -> None:
    (made,) = make(tmp_path, [kitchen.recipe("a" * 64)])
    assert made.path == tmp_path / "fixed" / "1"
    assert bundles.labels(tmp_path / "fixed") == {"stable": 1}


def test_a_bundle_whose_inputs_are_unchanged_is_left_alone(
    tmp_path: Path, kitchen: Kitchen, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, [kitchen.recipe("a" * 64)])
    assert make(tmp_path, [kitchen.recipe("a" * 64)]) == []
    assert kitchen.builds == 1
    assert "fixed/1 is up to date" in capsys.readouterr().out


def test_a_bundle_whose_inputs_have_changed_is_made_again(tmp_path: Path, kitchen: Kitchen) -> None:
    make(tmp_path, [kitchen.recipe("a" * 64)])
    (made,) = make(tmp_path, [kitchen.recipe("b" * 64)])
    assert made.manifest.training is not None
    assert made.manifest.training.digest == "b" * 64


def test_a_damaged_bundle_is_made_again(tmp_path: Path, kitchen: Kitchen) -> None:
    make(tmp_path, [kitchen.recipe("a" * 64)])
    (tmp_path / "fixed" / "1" / "model.onnx").write_bytes(b"")
    assert len(make(tmp_path, [kitchen.recipe("a" * 64)])) == 1
