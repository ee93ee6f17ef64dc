"""What tests of the batcher submit, and how they hold its engine meanwhile."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from services.kit.deadline import Deadline
from services.kit.inference.batcher import Batcher, Output
from tests.unit.kit.inference.engines import Doubler, x

NEVER = Deadline()


async def reached(engine: Doubler) -> None:
    """Returns when a run has begun."""
    assert await asyncio.to_thread(engine.entered.wait, 10)


def spawn(*submissions: Awaitable[Output]) -> "list[asyncio.Future[Output]]":
    return [asyncio.ensure_future(submission) for submission in submissions]


async def held(engine: Doubler, batch: Batcher) -> "asyncio.Future[Output]":
    """An item whose run has begun and waits for the gate."""
    engine.serving = True
    engine.hold()
    [first] = spawn(batch.submit(x(100.0), NEVER))
    await reached(engine)
    return first


def value(output: Output) -> float:
    return float(output.arrays["y"][0, 0])


class Slow(Doubler):
    """Each run takes 20 ms."""

    def run(self, inputs: Any, outputs: Any) -> Any:
        arrays = super().run(inputs, outputs)
        time.sleep(0.02)
        return arrays
