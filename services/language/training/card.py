"""Card: what a bundle's manifest says in words, and how its network is trained. Nothing here needs torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.kit.training.recipe import Hyperparameters


@dataclass(frozen=True, slots=True)
class Card:
    """One default bundle."""

    name: str
    builder: str  # file of this folder whose build(folder, card, digest) trains and writes the bundle
    sources: tuple[str, ...]  # files of this folder that go into it
    description: str
    data: str
    held_out: str
    source: str
    licence: str
    limits: tuple[str, ...]
    settings: Hyperparameters
    kit_sources: tuple[str, ...] = ("export.py", "loop.py")  # files of the kit's training that go into it
    service_sources: tuple[str, ...] = ()  # files of the service itself that go into it
    data_files: Callable[[], tuple[Path, ...]] = tuple  # of installed libraries; their contents go into it
