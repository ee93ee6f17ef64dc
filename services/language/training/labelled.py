"""Texts with their classes."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Labelled:
    """Some texts and the number of the class of each."""

    texts: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class Split:
    """What is trained on, and what is kept from it."""

    train: Labelled
    held_out: Mapping[str, Labelled]  # by the name of the figure that is measured on it
