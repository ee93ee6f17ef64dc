"""Engines for the tests of the batcher: they double x, and note what reached them and when."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from services.kit.inference.batcher import Batcher, BatcherSettings
from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.statistics import BatcherMetrics


class Doubler:
    """y is 2 * x, of any width. A run can be held back, fails for the values in `bad`, or kills the thread."""

    def __init__(self, width: int = 1) -> None:
        self.inputs = (TensorSpec("x", "FP32", (-1, width)),)
        self.runs: list[tuple[float, list[float]]] = []  # instant and first column of each run after the warm-up
        self.warmed: list[int] = []
        self.bad: set[float] = set()
        self.broken = False
        self.before: Callable[[], None] = lambda: None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.serving = False

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        x = inputs["x"]
        if not self.serving:
            self.warmed.append(len(x))
            return [x * 2]
        if not x.any():  # the example
            if self.broken:
                raise RuntimeError("device lost")
            return [x * 2]
        self.runs.append((time.monotonic(), [float(value) for value in x[:, 0]]))
        self.entered.set()
        self.gate.wait(10)
        self.before()
        if self.broken or self.bad.intersection(x[:, 0].tolist()):
            raise RuntimeError("bad value")
        return [x * 2]

    def example(self, rows: int) -> dict[str, Array]:
        return {"x": np.zeros((rows, max(self.inputs[0].shape[1], 1)), np.float32)}

    def values(self) -> list[list[float]]:
        """The first column of each run."""
        return [values for _, values in self.runs]

    def hold(self) -> None:
        """From now on runs wait for `gate`."""
        self.entered.clear()
        self.gate.clear()


def x(*values: float, width: int = 1) -> dict[str, Array]:
    """One item with a row for each value."""
    return {"x": np.repeat(np.array(values, np.float32)[:, None], width, axis=1)}


def batcher(
    engine: Any, registry: CollectorRegistry | None = None, **arguments: Any
) -> AbstractAsyncContextManager[Batcher]:
    """A batcher for the engine; keyword arguments that BatcherSettings has go there."""
    names = BatcherSettings.__dataclass_fields__
    settings = BatcherSettings(**{key: value for key, value in arguments.items() if key in names})
    rest = {key: value for key, value in arguments.items() if key not in names}
    metrics = BatcherMetrics(registry or CollectorRegistry()).of("test", 1)
    return Batcher(engine, ["y"], settings, metrics, **rest)
