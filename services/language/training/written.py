"""What the manifests of the models that write texts say of their training, and what their weights depend on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from services.kit.inference.manifest import Training
from services.kit.training.digest import ROOT, training_digest, versions
from services.language.training.card import Card

HERE = Path(__file__).parent
KIT_LOOP = ROOT / "services" / "kit" / "training" / "loop.py"
PACKAGES = ("tokenizers", "torch")  # those that change the weights
LIBRARIES = ("numpy", "onnx", "onnxscript", *PACKAGES)


def training(card: Card, data: str, digest: str) -> Training:
    """Where the model comes from; `data` in words."""
    return Training(
        data=data,
        source=card.source,
        licence=card.licence,
        digest=digest,
        seed=card.settings.seed,
        versions=versions(LIBRARIES),
    )


def weights_digest(card: Card, files: Sequence[str], data: str = "") -> str:
    """Of what the weights depend on, and not of how they are exported, measured and described.

    Args:
        files: of this folder.
        data: digest of what is not generated.
    """
    sources = [HERE / name for name in files]
    parameters = {"settings": dataclasses.asdict(card.settings), "data": data}
    return training_digest(parameters, [*sources, KIT_LOOP], (), PACKAGES)
