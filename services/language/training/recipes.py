"""What the default bundles are made of; importing this needs no torch, so that up-to-date bundles cost no time."""

import dataclasses
import functools
import importlib
from pathlib import Path

from services.kit.inference.bundle import Bundle
from services.kit.training.digest import ROOT, training_digest
from services.kit.training.recipe import Recipe
from services.language.training import classifier_cards, writing_cards
from services.language.training.card import Card

SERVICE = ROOT / "services" / "language"
FOLDER = SERVICE / "bundles"
PACKAGES = ("onnxscript", "torch")
HERE, KIT = SERVICE / "training", ROOT / "services" / "kit" / "training"
NO_WORDS = {"data_files", "kit_sources", "service_sources", "sources"}  # fields of a card that name files

CARDS = (*classifier_cards.CARDS, *writing_cards.CARDS)


def recipes() -> list[Recipe]:
    """How to make each default bundle."""
    return [Recipe(card.name, 1, digest(card), functools.partial(_build, card)) for card in CARDS]


def digest(card: Card) -> str:
    """Of everything that goes into the bundle."""
    words = {
        field.name: getattr(card, field.name) for field in dataclasses.fields(card) if field.name not in NO_WORDS
    } | {"settings": dataclasses.asdict(card.settings)}
    sources = (
        *(HERE / name for name in (card.builder, *card.sources)),
        *(KIT / name for name in card.kit_sources),
        *(SERVICE / name for name in card.service_sources),
    )
    return training_digest(words, sources, card.data_files(), PACKAGES)


def _build(card: Card, folder: Path) -> Bundle:
    # torch takes seconds to import, and what has not changed is not built.
    builder = importlib.import_module(f"services.language.training.{card.builder.removesuffix('.py')}")
    bundle: Bundle = builder.build(folder, card, digest(card))
    return bundle
