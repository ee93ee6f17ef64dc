"""Bundles that several files ask about: exporting a network takes seconds."""

import dataclasses
from pathlib import Path

import pytest

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from tests.bundles import scripts
from tests.language_bundles import tiny_bundle
from tests.recurrent import KINDS, recurrent_bundle


@pytest.fixture(scope="session")
def recurrent_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """By name, in one folder; "any" is "rnn" for values of which not all are finite."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {name: recurrent_bundle(folder, name, **kind) for name, kind in KINDS.items()}
    rnn = made["rnn"]
    assert rnn.manifest.recurrence is not None
    recurrence = dataclasses.replace(rnn.manifest.recurrence, allow_non_finite=True)
    manifest = dataclasses.replace(rnn.manifest, recurrence=recurrence)
    inputs, outputs = bundles.known_answers(rnn)
    model = (rnn.path / "model.onnx").read_bytes()
    made["any"] = bundles.write(folder, "any", 1, model=model, manifest=manifest, inputs=inputs, outputs=outputs)
    return made


@pytest.fixture(scope="session")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles: "gpt", "translate", "novel" and "recite", which write, and "scripts", which classifies."""
    folder = tmp_path_factory.mktemp("language_bundles")
    for kind in ("gpt", "translate", "novel", "recite"):
        tiny_bundle(folder, kind)
    scripts(folder)
    return folder
