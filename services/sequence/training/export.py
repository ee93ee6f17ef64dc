"""Trains and exports one default bundle, measured on what the training never saw."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.manifest import Manifest, Postprocessing, Training
from services.kit.training import export, recurrent
from services.kit.training.digest import versions
from services.kit.training.recurrent_network import RecurrentNetwork
from services.sequence.training.card import Card
from services.sequence.training.train import SUBJECTS, Subject, train

MAX_BATCH = 64
MAX_STEPS = 4096
PARITY_BATCHES = (1, 2, 3, 5, 8, 16, MAX_BATCH)
PARITY_WINDOWS = (1, 7, 16, 64)
KNOWN_ANSWERS = 4  # rows
LIBRARIES = ("numpy", "onnx", "onnxscript", "scikit-learn", "statsmodels", "torch")


def build(folder: Path, card: Card, digest: str) -> Bundle:
    """Trains the card's network and writes `folder`/NAME/1.

    Raises:
        ParityError: the exported graph computes something else than the network.
    """
    subject = SUBJECTS[card.network]
    network = train(subject, card.settings, card.name)
    model, described = _exported(network, subject)
    manifest = Manifest(
        format=1,
        service="sequence",
        description=card.description,
        max_batch=MAX_BATCH,
        opset=export.OPSET,
        files={},
        classes=subject.classes,
        postprocessing=Postprocessing(subject.output, softmax=True) if subject.classes else None,
        training=Training(
            data=card.data,
            source=card.source,
            licence=card.licence,
            digest=digest,
            seed=card.settings.seed,
            versions=versions(LIBRARIES),
        ),
        metrics=subject.measure(model, card.held_out),
        limits=card.limits,
        **described,
    )
    known, answers = _known_answers(model, subject, network)
    return bundles.write(folder, card.name, 1, model=model, manifest=manifest, inputs=known, outputs=answers)


def _exported(network: nn.Module, subject: Subject) -> tuple[bytes, dict[str, Any]]:
    """The graph, compared with the network, and what the manifest says of its kind."""
    rows = subject.examples(MAX_BATCH)
    if not isinstance(network, RecurrentNetwork):
        model = export.to_onnx(network, {"x": torch.from_numpy(rows[:2])}, [subject.output])
        export.check_parity(network, model, {"x": rows}, [subject.output], PARITY_BATCHES)
        inputs, outputs = export.interface(model)
        return model, {"task": "tensors", "inputs": inputs, "outputs": outputs}
    model = recurrent.to_onnx(network, subject.output)
    recurrent.check_parity(network, model, rows, PARITY_BATCHES, PARITY_WINDOWS)
    inputs, outputs = recurrent.public_interface(model, subject.output)
    return model, {
        "task": "sequence-classification" if subject.classes else "time-series-forecasting",
        "inputs": inputs,
        "outputs": outputs,
        "recurrence": recurrent.recurrence(network, subject.output, max_steps=MAX_STEPS),
    }


def _known_answers(model: bytes, subject: Subject, network: nn.Module) -> tuple[dict[str, Array], dict[str, Array]]:
    rows = subject.examples(KNOWN_ANSWERS)
    if isinstance(network, RecurrentNetwork):
        return recurrent.known_answers(model, rows)
    (answers,) = export.session(model).run([subject.output], {"x": rows})
    return {"x": rows}, {subject.output: answers}
