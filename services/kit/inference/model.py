"""Model: one version of a bundle, loaded and warm."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from services.kit.call import Call
from services.kit.errors import UnsupportedByModel
from services.kit.inference import bundle as bundles
from services.kit.inference.batcher import Batcher, Output
from services.kit.inference.bundle import Bundle, Manifest
from services.kit.inference.engine import Engine
from services.kit.inference.statistics import Statistics

P = TypeVar("P")  # a service's own pipeline: what is around the engine


@dataclass(eq=False, slots=True)
class Model(Generic[P]):
    """One version of a bundle, loaded: answers come from `batcher.submit`, or from what its service has instead."""

    bundle: Bundle
    pipeline: P
    engine: Engine
    answers: str  # what the known answers are here to the bit: 16 hexadecimal digits
    statistics: Statistics
    max_batch: int  # rows of one request; 0 where dimension 0 is no batch
    own_batcher: Batcher | None = None
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)  # closed, it is unloaded
    digest: bytes = field(init=False)  # SHA-256 of the bundle

    def __post_init__(self) -> None:
        self.digest = bytes.fromhex(bundles.digest(self.bundle))

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.bundle.name

    @property
    def version(self) -> int:
        """The bundle's version."""
        return self.bundle.version

    @property
    def batcher(self) -> Batcher:
        """What computes items together; of a model that has one."""
        assert self.own_batcher is not None
        return self.own_batcher

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    def must_support(self, supports: Callable[[Manifest], bool], what: str) -> None:
        """Refuses a call that the bundle cannot answer; `what` it must have, in words.

        Raises:
            UnsupportedByModel
        """
        if not supports(self.manifest):
            raise UnsupportedByModel(
                f"model {self.name!r} has no {what}; its task is {self.manifest.task}",
                model=self.name,
                task=self.manifest.task,
            )

    def trailers(self, output: Output) -> list[tuple[str, str | bytes]]:
        """Trailing metadata: which model and version answered and where its time went."""
        return [
            ("trivium-model", self.name),
            ("trivium-version", str(self.version)),
            ("trivium-queue-us", str(round(output.queue_s * 1e6))),
            ("trivium-batch-size", str(output.batch_size)),
            ("trivium-compute-us", str(round(output.compute_s * 1e6))),
        ]

    def report(self, output: Output, call: Call) -> None:
        """Tells the call's trailers, stage times and log line what `output` cost."""
        call.trailers.extend(self.trailers(output))
        for stage, seconds in (("queue", output.queue_s), ("compute", output.compute_s)):
            call.stages[stage] = call.stages.get(stage, 0.0) + seconds
        call.fields.update(model=f"{self.name}:{self.version}", batch=output.batch_size)
