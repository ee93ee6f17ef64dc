"""Bundles that several files ask about: exporting a network takes seconds."""

import dataclasses
from typing import Any

import pytest

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from tests.recurrent import recurrent_bundle

KINDS: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn", "layers": 2, "width": 1, "horizon": 3},
    "lstm": {"cell": "lstm", "layers": 1, "width": 2, "horizon": 3, "max_steps": 300},
    "gru": {"cell": "gru", "layers": 2, "width": 2, "horizon": 64, "max_steps": 1_000_000},
    "both": {"cell": "lstm", "bidirectional": True, "classes": 4},
}


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
