"""Job and Output: one item on its way through a batcher, and what came of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from services.kit.deadline import Deadline
from services.kit.inference.bundle import Array


@dataclass(frozen=True, slots=True)
class Output:
    """What the engine gave for one item."""

    arrays: Mapping[str, Array]  # by output name; the item's rows only
    queue_s: float  # from submission to the start of the run
    compute_s: float  # of the run that the item shared
    batch_size: int  # rows in that run


@dataclass(eq=False, slots=True)
class Job:
    """One item; made by the event loop, finished by the batcher's thread."""

    inputs: Mapping[str, Array]  # by input name
    rows: int
    shape: tuple[tuple[int, ...], ...]  # of each input without the batch dimension: only equal ones share a run
    deadline: Deadline
    answer: "asyncio.Future[Output]"
    submitted: float  # on the clock of time.monotonic, in seconds
    estimate_s: float  # from submission to answer, as it looked at submission
    steps: int = 1  # of a series, one after the other within the run; part of `shape`
    admitted: bool = False  # part of what was accepted before: it takes no place of those that may be refused
    followed: bool = False  # by an item that is made when this one is answered
    output: Output | None = None
    error: Exception | None = None
    input_s: float = 0.0  # spent on joining the inputs of the run
    output_s: float = 0.0  # spent on dividing its outputs
