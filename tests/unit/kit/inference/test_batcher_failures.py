"""A run, an engine or a thread that fails: its culprit alone pays, and nobody hangs."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.kit.errors import Draining, InvalidField, NotReady, StartupError, TriviumError
from services.kit.inference.batcher import Output
from services.kit.inference.engine import Engine, EngineSettings
from tests import bundles as tiny
from tests.unit.kit.inference.engines import Doubler, batcher, x
from tests.unit.kit.inference.submissions import NEVER, held, reached, spawn, value


async def test_the_culprit_of_a_failed_run_is_found_and_its_neighbours_are_answered() -> None:
    engine = Doubler()
    engine.bad = {3.0, 7.0}
    async with batcher(engine) as batch:
        first = await held(engine, batch)
        items = spawn(*(batch.submit(x(value), NEVER) for value in range(1, 9)))
        await asyncio.sleep(0)
        engine.gate.set()
        await first
        results = await asyncio.gather(*items, return_exceptions=True)

    failed = [index + 1 for index, result in enumerate(results) if isinstance(result, InvalidField)]
    assert failed == [3, 7]
    assert [value(result) for result in results if isinstance(result, Output)] == [2, 4, 8, 10, 12, 16]
    culprit = results[2]
    assert isinstance(culprit, InvalidField)
    assert culprit.metadata["executed"] == "yes"


async def test_neighbours_of_a_culprit_get_the_bits_that_they_get_alone(tmp_path: Path) -> None:
    bundle = tiny.picky(tmp_path)
    engine = Engine(bundle.path / "model.onnx", EngineSettings(device="cpu", threads=1))
    async with batcher(engine, max_wait_ms=20) as batch:
        inputs = [{"x": np.array([[value]], np.int64)} for value in (1, 2, 77, 4, -3)]
        together = await asyncio.gather(*(batch.submit(item, NEVER) for item in inputs), return_exceptions=True)
        alone = await asyncio.gather(
            *(asyncio.create_task(batch.submit(item, NEVER)) for item in inputs[:2]), return_exceptions=True
        )
        single = [await batch.submit(inputs[index], NEVER) for index in (0, 1, 3, 4)]

    assert isinstance(together[2], InvalidField)
    assert "77" in str(together[2])
    outputs = [result for result in together if isinstance(result, Output)]
    assert [o.arrays["y"].tobytes() for o in outputs] == [o.arrays["y"].tobytes() for o in single]
    assert all(isinstance(result, Output) for result in alone)


async def test_when_the_engine_fails_for_good_nobody_hangs_and_the_next_is_refused() -> None:
    engine, broken = Doubler(), asyncio.Event()
    async with batcher(engine, max_batch=1, on_broken=broken.set) as batch:
        first = await held(engine, batch)
        waiting = spawn(*(batch.submit(x(value), NEVER) for value in (1, 2, 3)))
        await asyncio.sleep(0)
        engine.broken = True
        engine.gate.set()
        results = await asyncio.wait_for(asyncio.gather(first, *waiting, return_exceptions=True), 10)
        assert broken.is_set()
        with pytest.raises(NotReady):
            await batch.submit(x(4), NEVER)

    assert [type(result) for result in results] == [TriviumError, NotReady, NotReady, NotReady]


async def test_when_the_thread_dies_nobody_hangs() -> None:
    class Dying(Doubler):
        def run(self, inputs: Any, outputs: Any) -> Any:
            result = super().run(inputs, outputs)
            if self.serving:
                raise SystemExit
            return result

    engine = Dying()
    async with batcher(engine) as batch:
        first = await held(engine, batch)
        [second] = spawn(batch.submit(x(1), NEVER))
        await asyncio.sleep(0)
        engine.gate.set()
        results = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), 10)

    assert [type(result) for result in results] == [TriviumError, NotReady]


async def test_leaving_answers_what_is_queued_and_refuses_what_comes() -> None:
    engine = Doubler()
    context = batcher(engine, max_wait_ms=60_000, max_batch=2)
    batch = await context.__aenter__()
    engine.serving = True
    engine.hold()
    full = spawn(batch.submit(x(1), NEVER), batch.submit(x(2), NEVER))
    await reached(engine)
    [queued] = spawn(batch.submit(x(3), NEVER))
    await asyncio.sleep(0)
    leaving = asyncio.ensure_future(context.__aexit__(None, None, None))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        await batch.submit(x(4), NEVER)
    engine.gate.set()
    await leaving

    assert [value(await item) for item in (*full, queued)] == [2, 4, 6]


class Wrong(Doubler):
    def run(self, inputs: Any, outputs: Any) -> Any:
        return [np.zeros((1, 1), np.float32)]


class Failing(Doubler):
    def run(self, inputs: Any, outputs: Any) -> Any:
        raise RuntimeError("no kernel")


@pytest.mark.parametrize(("engine", "says"), [(Wrong, "batch of 2"), (Failing, "no kernel")])
async def test_an_engine_that_fails_in_the_warm_up_stops_the_start(engine: Callable[[], Doubler], says: str) -> None:
    with pytest.raises(StartupError, match=says):
        async with batcher(engine()):
            pass
