"""Recurrent bundles with random weights, for tests and benchmarks; made by the exporter, hence with torch."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from services.kit.inference.manifest import Manifest, Postprocessing
from services.kit.training.digest import ROOT, training_digest

SOURCES = ROOT / "services" / "kit" / "training"
CACHE = ROOT / ".cache" / "recurrent"
# Those that most tests are about, by name.
KINDS: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn", "layers": 2, "width": 1, "horizon": 3},
    "lstm": {"cell": "lstm", "layers": 1, "width": 2, "horizon": 3, "max_steps": 300},
    "gru": {"cell": "gru", "layers": 2, "width": 2, "horizon": 64, "max_steps": 1_000_000},
    "both": {"cell": "lstm", "bidirectional": True, "classes": 4},
}


def recurrent_bundle(folder: Path, name: str, version: int = 1, **kind: Any) -> Bundle:
    """Writes `folder`/NAME/VERSION as `export` does; what has been exported before is taken from a cache."""
    sources = [Path(__file__), *sorted(SOURCES.glob("recurrent*.py"))]
    cached = CACHE / training_digest({"name": name, **kind}, sources, (), ("torch", "onnx"))
    if not cached.exists():
        with tempfile.TemporaryDirectory(dir=_made(CACHE)) as made:
            bundle = export(Path(made), name, **kind)
            with contextlib.suppress(OSError):  # another process was quicker
                bundle.path.rename(cached)
    shutil.copytree(cached, folder / name / str(version))
    return bundles.load(folder / name / str(version))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def export(
    folder: Path,
    name: str,
    *,
    cell: str = "lstm",
    layers: int = 1,
    hidden: int = 16,
    width: int = 1,
    classes: int = 0,
    horizon: int = 0,
    bidirectional: bool = False,
    allow_non_finite: bool = False,
    max_steps: int = 4096,
    max_batch: int = 64,
    seed: int = 0,
    service: str = "sequence",
) -> Bundle:
    """Writes `folder`/NAME/1: a classifier where `classes` are given, a forecaster where a `horizon` is.

    One of the two must be given. The classes are called "class-0", "class-1", ...; the output is `logits`, or
    `forecast` with `horizon` * `width` numbers a step.
    """
    from services.kit.training import recurrent
    from services.kit.training.export import OPSET

    if bool(classes) == bool(horizon):
        raise ValueError("give either classes or a horizon")
    output = "logits" if classes else "forecast"
    network = _network(cell, layers, hidden, width, classes or horizon * width, horizon, bidirectional, seed)
    model = recurrent.to_onnx(network, output)
    inputs, outputs = recurrent.public_interface(model, output)
    manifest = Manifest(
        format=1,
        service=service,
        task="sequence-classification" if classes else "time-series-forecasting",
        description=f"The test model {name}.",
        inputs=inputs,
        outputs=outputs,
        max_batch=max_batch,
        opset=OPSET,
        files={},
        classes=tuple(f"class-{index}" for index in range(classes)),
        recurrence=recurrent.recurrence(network, output, max_steps=max_steps, allow_non_finite=allow_non_finite),
        postprocessing=Postprocessing(output, softmax=True) if classes else None,
    )
    series = np.random.default_rng(seed).normal(size=(3, 5, width)).astype(np.float32)
    known, answers = recurrent.known_answers(model, series)
    return bundles.write(folder, name, 1, model=model, manifest=manifest, inputs=known, outputs=answers)


def _network(
    cell: str, layers: int, hidden: int, width: int, answers: int, horizon: int, bidirectional: bool, seed: int
) -> Any:
    import torch
    from torch import nn

    from services.kit.training.recurrent_network import RecurrentNetwork

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recurrent = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell](
            width, hidden, num_layers=layers, bidirectional=bidirectional, batch_first=True
        )
        head = nn.Linear(hidden * (2 if bidirectional else 1), answers)
        return RecurrentNetwork(recurrent, head, horizon=horizon).eval()
