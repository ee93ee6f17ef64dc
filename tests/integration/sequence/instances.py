"""A gateway and two instances of the sequence service, their callers and their series."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from services.kit.inference.bundle import Array, Bundle
from tests.harness import OPTIONS, Replica, Suite
from tests.series import Caller

NEIGHBOURS = 30


@dataclass(frozen=True)
class Running:
    """A gateway and two instances of the same bundles, with a caller of each."""

    suite: Suite
    folder: Path
    bundles: dict[str, Bundle]
    replicas: Sequence[Replica]
    one: Caller
    two: Caller
    gateway: Caller
    gateway_address: str

    def width(self, name: str) -> int:
        """Numbers of one step."""
        return self.bundles[name].manifest.inputs[0].shape[2]


@contextlib.asynccontextmanager
async def calling(address: str) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        yield Caller(channel)


def series(seed: int, steps: int, width: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(steps, width)).astype(np.float32)
