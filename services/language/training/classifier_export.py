"""Trains and exports one classifier of texts, measured on texts that the training never saw."""

from pathlib import Path

import numpy as np

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.manifest import Manifest, NgramFeatures, Postprocessing, TensorSpec, Training
from services.kit.training.digest import versions
from services.kit.training.export import OPSET, check_parity, interface, session
from services.language.features import Ngrams
from services.language.training.card import Card
from services.language.training.classifier import SUBJECTS, TextClassifier, measure, train
from services.language.training.classifier_graph import to_onnx
from services.language.training.labelled import Labelled, Split

MAX_BATCH = 64
PARITY_BATCHES = (1, 2, 3, 5, 8, 16, MAX_BATCH)
KNOWN_ANSWERS = 4  # texts
LENGTH = 128  # features of the rows that network and graph are compared with
OUTPUTS = ("logits", "embedding")
LIBRARIES = ("django", "numpy", "onnx", "onnxscript", "torch")


def build(folder: Path, card: Card, digest: str) -> Bundle:
    """Trains the card's network and writes `folder`/NAME/1.

    Raises:
        ParityError: the exported graph computes something else than the network.
    """
    subject = SUBJECTS[card.name]
    split = subject.load()
    model, rows = exported(train(subject, split, card.settings, card.name), subject.features, split)
    known = {subject.features.input: rows[:KNOWN_ANSWERS]}
    answers = dict(zip(OUTPUTS, session(model).run(list(OUTPUTS), known), strict=True))
    _, outputs = interface(model)
    manifest = Manifest(
        format=1,
        service="language",
        task="text-classification",
        description=card.description,
        inputs=(TensorSpec("text_input", "BYTES", (-1, 1)),),
        outputs=outputs,
        max_batch=MAX_BATCH,
        opset=OPSET,
        files={},
        classes=subject.classes,
        features=subject.features,
        postprocessing=Postprocessing(scores="logits", softmax=True, embedding="embedding"),
        training=Training(
            data=card.data,
            source=card.source,
            licence=card.licence,
            digest=digest,
            seed=card.settings.seed,
            versions=versions(LIBRARIES),
        ),
        metrics=measure(subject, split, model, card.held_out),
        limits=card.limits,
    )
    return bundles.write(folder, card.name, 1, model=model, manifest=manifest, inputs=known, outputs=answers)


def exported(network: TextClassifier, features: NgramFeatures, split: Split) -> tuple[bytes, Array]:
    """The graph, compared with the network, and the rows that they were compared with, int64 [64, L]."""
    rows = examples(features, next(iter(split.held_out.values())))
    model = to_onnx(network, features.input)
    check_parity(network, model, {features.input: rows}, OUTPUTS, PARITY_BATCHES)
    return model, rows


def examples(features: NgramFeatures, texts: Labelled) -> Array:
    """int64 [64, L]: the features of texts taken evenly from all of them, of equal length."""
    ngrams = Ngrams(features)
    rows = [row for row in map(ngrams.ids, texts.texts) if len(row) == LENGTH]
    chosen: Array = np.stack([rows[at] for at in np.linspace(0, len(rows) - 1, MAX_BATCH).astype(int)])
    return chosen
