"""Cores: which of them the measured processes have, and which the generator."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cores:
    """A split of this machine. Where `pinned` is False, everybody runs where the kernel puts it."""

    measured: tuple[int, ...]  # service, gateway and the bare engine
    generator: tuple[int, ...]  # generator, Consul and the benchmark itself
    pinned: bool

    @classmethod
    def split(cls) -> "Cores":
        """The upper half of the cores, at least one, for the generator; one core or macOS: no pinning."""
        if not hasattr(os, "sched_setaffinity"):
            return cls(tuple(range(os.cpu_count() or 1)), (), pinned=False)
        return divided(sorted(os.sched_getaffinity(0)))

    @contextlib.contextmanager
    def of_measured(self) -> Iterator[None]:
        """Processes and threads that are started in the block belong to the measured ones."""
        if not self.pinned:
            yield
            return
        os.sched_setaffinity(0, self.measured)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self.generator)

    def pin_measured(self) -> None:
        """Moves this process to the measured cores."""
        if self.pinned:
            os.sched_setaffinity(0, self.measured)

    def pin_generator(self) -> None:
        """Moves this process to the generator's cores."""
        if self.pinned:
            os.sched_setaffinity(0, self.generator)


def divided(cores: list[int]) -> Cores:
    """The lower half, or more, is measured."""
    if len(cores) < 2:
        return Cores(tuple(cores), tuple(cores), pinned=False)
    middle = (len(cores) + 1) // 2
    return Cores(tuple(cores[:middle]), tuple(cores[middle:]), pinned=True)
