"""Card: what a bundle of this service is, and how its network is trained."""

from dataclasses import dataclass

from services.kit.training.recipe import Hyperparameters


@dataclass(frozen=True, slots=True)
class Card:
    """What a bundle's manifest says in words, and how its network is trained."""

    name: str
    network: str  # class in network.py
    description: str
    data: str
    held_out: str
    source: str
    licence: str
    limits: tuple[str, ...]
    settings: Hyperparameters
