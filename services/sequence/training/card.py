"""Card: what a bundle's manifest says in words, and how its network is trained. Nothing here needs torch."""

from dataclasses import dataclass
from pathlib import Path

from services.kit.training.recipe import Hyperparameters


@dataclass(frozen=True, slots=True)
class Card:
    """One default bundle."""

    name: str
    network: str  # class in network.py
    module: str  # file of this folder that has the data, the loss and the measurements
    description: str
    data: str
    held_out: str
    source: str
    licence: str
    limits: tuple[str, ...]
    settings: Hyperparameters
    data_files: tuple[Path, ...] = ()  # of installed libraries
