"""Call: what a handler and the hooks see of one call, whatever transport carried it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from google.rpc import status_pb2

from services.kit.deadline import Deadline

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(slots=True)
class Call:
    """One call from its acceptance to its status.

    A handler reads `deadline` and `metadata`, appends to `trailers` what the caller should see in trailing metadata,
    and names the `stage` it is in through `timed`. The hooks read the rest.
    """

    method: str  # "/trivium.vision.v1.VisionService/Classify"
    deadline: Deadline
    metadata: Metadata = ()
    initial: list[tuple[str, str | bytes]] = field(default_factory=list)  # sent before the first answer
    trailers: list[tuple[str, str | bytes]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    stage: str = "admission"  # where the call is; a failure is reported with it
    stages: dict[str, float] = field(default_factory=dict)  # seconds spent in each stage that `timed` has seen
    fields: dict[str, str | int | float] = field(default_factory=dict)  # what the call's log line says besides
    status: status_pb2.Status | None = None  # of a failed call; set by the errors hook

    def timed(self, stage: str) -> "Stage":
        """Names the stage and adds the time inside the `with` block to it."""
        return Stage(self, stage)


class Stage:
    """The `with` block that `Call.timed` returns."""

    __slots__ = ("_call", "_name", "_started")

    def __init__(self, call: Call, name: str) -> None:
        self._call, self._name, self._started = call, name, 0.0

    def __enter__(self) -> None:
        self._call.stage = self._name
        self._started = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stages = self._call.stages
        stages[self._name] = stages.get(self._name, 0.0) + time.monotonic() - self._started
