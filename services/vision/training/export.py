"""Trains and exports one default bundle, measured on what the training never saw."""

from pathlib import Path

import numpy as np
import torch

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.manifest import (
    Manifest,
    Metrics,
    Postprocessing,
    Training,
)
from services.kit.training import evaluation
from services.kit.training.digest import versions
from services.kit.training.export import OPSET, check_parity, interface, session, to_onnx
from services.vision.training.card import Card
from services.vision.training.image_input import preprocessing
from services.vision.training.train import HeldOut, spread, train

MAX_BATCH = 64
PARITY_BATCHES = (1, 2, 3, 5, 8, 16, MAX_BATCH)
KNOWN_ANSWERS = 4  # images
OUTPUTS = ("logits", "embedding")
LIBRARIES = ("numpy", "onnx", "onnxscript", "pillow", "scikit-learn", "torch")


def build(folder: Path, card: Card, digest: str) -> Bundle:
    """Trains the card's network and writes `folder`/NAME/1.

    Raises:
        ParityError: the exported graph computes something else than the network.
    """
    trained = train(card.network, card.settings, card.name)
    images = spread(trained.held_out, MAX_BATCH)
    model = to_onnx(trained.network, {"image": torch.from_numpy(images[:2])}, OUTPUTS)
    check_parity(trained.network, model, {"image": images}, OUTPUTS, PARITY_BATCHES)
    known = np.ascontiguousarray(spread(trained.held_out, KNOWN_ANSWERS))
    answers = dict(zip(OUTPUTS, session(model).run(list(OUTPUTS), {"image": known}), strict=True))
    manifest = _manifest(card, digest, trained.classes, model, trained.held_out)
    return bundles.write(folder, card.name, 1, model=model, manifest=manifest, inputs={"image": known}, outputs=answers)


def _manifest(card: Card, digest: str, classes: tuple[str, ...], model: bytes, held_out: HeldOut) -> Manifest:
    inputs, outputs = interface(model)
    return Manifest(
        format=1,
        service="vision",
        task="image-classification",
        description=card.description,
        inputs=inputs,
        outputs=outputs,
        max_batch=MAX_BATCH,
        opset=OPSET,
        files={},
        classes=classes,
        preprocessing=preprocessing(inputs[0].shape[1], "grey" if inputs[0].shape[3] == 1 else "rgb"),
        postprocessing=Postprocessing(scores="logits", softmax=True, embedding="embedding"),
        training=Training(
            data=card.data,
            source=card.source,
            licence=card.licence,
            digest=digest,
            seed=card.settings.seed,
            versions=versions(LIBRARIES),
        ),
        metrics=measure(model, held_out, classes, card.held_out),
        limits=card.limits,
    )


def measure(model: bytes, held_out: HeldOut, classes: tuple[str, ...], data: str) -> Metrics:
    """What the exported graph gets right, altogether and under each condition."""
    tables = {
        name: evaluation.confusion(labels, predict(model, images), len(classes))
        for name, (images, labels) in held_out.parts.items()
    }
    table = np.sum(list(tables.values()), axis=0)
    values = {"accuracy": evaluation.accuracy(table)}
    if len(tables) > 1:
        values |= {f"accuracy_{name}": evaluation.accuracy(part) for name, part in tables.items()}
    return Metrics(
        data=data,
        samples=int(table.sum()),
        values=values,
        classes=evaluation.by_class(table, classes),
        confusion=tuple(tuple(map(int, row)) for row in table),
    )


def predict(model: bytes, images: Array) -> Array:
    """int64 [images]: the class with the highest score."""
    loaded = session(model)
    parts = [images[start : start + MAX_BATCH] for start in range(0, len(images), MAX_BATCH)]
    predicted: Array = np.concatenate([loaded.run(["logits"], {"image": part})[0].argmax(axis=1) for part in parts])
    return predicted
