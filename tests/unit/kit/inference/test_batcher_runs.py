"""Which items share a run of the engine, and that sharing costs neither bits nor wake-ups."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.kit.errors import Overloaded
from services.kit.inference.batcher import Batcher
from services.kit.inference.engine import Engine, EngineSettings
from tests import bundles as tiny
from tests.unit.kit.inference.engines import Doubler, batcher, x
from tests.unit.kit.inference.submissions import NEVER, held, reached, spawn, value


async def test_items_that_wait_while_a_run_goes_on_share_the_next_one_in_order() -> None:
    engine = Doubler()
    async with batcher(engine) as batch:
        first = await held(engine, batch)
        rest = spawn(*(batch.submit(x(value), NEVER) for value in (1.0, 2.0, 3.0)))
        await asyncio.sleep(0)
        assert batch.waiting == 3
        engine.gate.set()
        outputs = await asyncio.gather(first, *rest)

    assert engine.values() == [[100.0], [1.0, 2.0, 3.0]]
    assert [value(output) for output in outputs] == [200.0, 2.0, 4.0, 6.0]
    assert [output.batch_size for output in outputs] == [1, 3, 3, 3]
    assert all(output.queue_s >= 0 and output.compute_s >= 0 for output in outputs)


async def test_a_batch_never_has_more_rows_than_max_batch_and_items_are_never_cut() -> None:
    engine = Doubler()
    async with batcher(engine, max_batch=4) as batch:
        first = await held(engine, batch)
        items = spawn(*(batch.submit(x(*values), NEVER) for values in ((1, 2, 3), (4, 5), (6,), (7, 8, 9, 10))))
        await asyncio.sleep(0)
        engine.gate.set()
        outputs = await asyncio.gather(first, *items)

    assert engine.values() == [[100], [1, 2, 3], [4, 5, 6], [7, 8, 9, 10]]
    assert [output.arrays["y"][:, 0].tolist() for output in outputs[1:]] == [
        [2, 4, 6],
        [8, 10],
        [12],
        [14, 16, 18, 20],
    ]


async def test_a_free_engine_waits_for_company_no_longer_than_max_wait() -> None:
    engine = Doubler()
    async with batcher(engine, max_wait_ms=40) as batch:
        engine.serving = True
        started = time.monotonic()
        await asyncio.gather(batch.submit(x(1), NEVER), batch.submit(x(2), NEVER))

    assert engine.values() == [[1, 2]]
    assert engine.runs[0][0] - started >= 0.04


async def test_a_full_batch_does_not_wait() -> None:
    engine = Doubler()
    async with batcher(engine, max_wait_ms=60_000, max_batch=2) as batch:
        engine.serving = True
        await asyncio.wait_for(asyncio.gather(batch.submit(x(1), NEVER), batch.submit(x(2), NEVER)), 10)

    assert engine.values() == [[1, 2]]


async def test_a_whole_batch_wakes_the_event_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Doubler()
    async with batcher(engine) as batch:
        first = await held(engine, batch)
        items = spawn(*(batch.submit(x(value), NEVER) for value in range(1, 11)))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        wakes, wake = [], loop.call_soon_threadsafe

        def counted(*arguments: Any) -> asyncio.Handle:
            wakes.append(arguments)
            return wake(*arguments)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        engine.gate.set()
        await asyncio.gather(first, *items)
        monkeypatch.undo()

    assert len(wakes) == 2  # the held run's and that of the ten


async def test_items_of_one_turn_of_the_loop_share_a_run_although_the_engine_is_free() -> None:
    engine = Doubler()
    async with batcher(engine) as batch:
        engine.serving = True
        await asyncio.gather(*(batch.submit(x(value), NEVER) for value in range(1, 9)))
        await asyncio.gather(*(batch.submit(x(value), NEVER) for value in range(11, 14)))

    assert engine.values() == [[1, 2, 3, 4, 5, 6, 7, 8], [11, 12, 13]]


async def test_the_thread_is_woken_once_for_all_items_of_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, wakes = Doubler(), Counter[str]()
    async with batcher(engine) as batch:
        engine.serving = True
        wake = batch._line.wake

        def counted() -> None:
            wakes["wake"] += 1
            wake()

        monkeypatch.setattr(batch._line, "wake", counted)
        for turn in (1, 2, 3):
            await asyncio.gather(*(batch.submit(x(value), NEVER) for value in range(1, 9)))
            assert wakes["wake"] == turn


async def test_what_follows_the_items_of_a_run_shares_the_next_one_with_those_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.kit.inference.batcher.PATIENCE", 1000.0)
    engine = Doubler()

    async def stream(batch: Batcher, *values: float) -> None:
        for item in values:
            await batch.submit(x(item), NEVER, admitted=True, followed=True)

    async with batcher(engine) as batch:
        engine.serving = True
        engine.hold()
        one = asyncio.create_task(stream(batch, 1.0, 2.0, 3.0))
        await reached(engine)
        other = asyncio.create_task(stream(batch, 11.0, 12.0))  # while the first item of the one is computed
        await asyncio.sleep(0)
        engine.gate.set()
        await asyncio.gather(one, other)
    assert engine.values() == [[1.0], [11.0, 2.0], [12.0, 3.0]]


async def test_nobody_waits_for_what_does_not_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.inference.batcher.PATIENCE", 1e9)
    engine = Doubler()
    async with batcher(engine) as batch, asyncio.timeout(10):
        first = await held(engine, batch)
        items = spawn(*(batch.submit(x(value), NEVER, admitted=True, followed=True) for value in (1.0, 2.0)))
        await asyncio.sleep(0)
        engine.gate.set()
        await asyncio.gather(first, *items)
        await batch.submit(x(3.0), NEVER)
    assert engine.values() == [[100.0], [1.0, 2.0], [3.0]]


async def test_between_items_that_nothing_follows_the_engine_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.inference.batcher.PATIENCE", 1e9)
    engine = Doubler(width=-1)
    async with batcher(engine) as batch:
        first = await held(engine, batch)
        items = spawn(*(batch.submit(x(width, width=width), NEVER, admitted=True) for width in (1, 2, 3)))
        await asyncio.sleep(0)
        engine.gate.set()
        until = time.monotonic() + 10
        while len(engine.values()) < 4 and time.monotonic() < until:
            time.sleep(0.001)  # noqa: ASYNC251 - the event loop would say that there is nothing to wait for
        assert engine.values() == [[100], [1], [2], [3]]
        expected = list[float]()
        monkeypatch.setattr(batch._line, "expect", expected.append)
        await asyncio.gather(first, *items)
        await asyncio.sleep(0)
        assert expected == []  # nor is it woken for nothing


async def test_only_items_of_one_shape_share_a_run_and_the_oldest_goes_first() -> None:
    engine = Doubler(width=-1)
    async with batcher(engine) as batch:
        first = await held(engine, batch)
        items = spawn(*(batch.submit(x(n, width=width), NEVER) for n, width in ((1, 2), (2, 3), (3, 2), (4, 3))))
        await asyncio.sleep(0)
        engine.gate.set()
        outputs = await asyncio.gather(first, *items)

    assert engine.values() == [[100], [1, 3], [2, 4]]
    assert [output.arrays["y"].shape for output in outputs[1:]] == [(1, 2), (1, 3), (1, 2), (1, 3)]


async def test_every_size_is_warm_before_the_batcher_is_entered() -> None:
    engine = Doubler()
    async with batcher(engine, max_batch=3):
        assert engine.warmed == [1, 1, 2, 2, 3, 3]


async def test_an_answer_does_not_change_when_the_buffers_are_used_again(tmp_path: Path) -> None:
    bundle = tiny.identity(tmp_path)
    engine = Engine(bundle.path / "model.onnx", EngineSettings(device="cpu", threads=1))

    def items(offset: int) -> list[dict[str, Any]]:
        return [{"x": np.full((1, 4), offset + n, np.float32)} for n in range(8)]

    async with batcher(engine, max_wait_ms=20, max_batch=8) as batch:
        before = await asyncio.gather(*(batch.submit(item, NEVER) for item in items(0)))
        await asyncio.gather(*(batch.submit(item, NEVER) for item in items(100)))

    assert [output.batch_size for output in before] == [8] * 8
    assert [output.arrays["y"].tolist() for output in before] == [[[n] * 4] for n in range(8)]


async def test_a_model_without_batch_dimension_runs_its_items_one_by_one(tmp_path: Path) -> None:
    bundle = tiny.fixed(tmp_path)
    engine = Engine(bundle.path / "model.onnx", EngineSettings(device="cpu", threads=1))
    inputs = [{"x": np.full((2, 3), value, np.float32)} for value in range(5)]
    async with batcher(engine, batched=False) as batch:
        outputs = await asyncio.gather(*(batch.submit(item, NEVER) for item in inputs))

    assert [output.arrays["y"].tolist() for output in outputs] == [[[2 * n] * 3] * 2 for n in range(5)]
    assert [output.batch_size for output in outputs] == [1] * 5


async def test_strings_are_batched_like_numbers(tmp_path: Path) -> None:
    bundle = tiny.identity(tmp_path, datatype="BYTES", width=3)
    engine = Engine(bundle.path / "model.onnx", EngineSettings(device="cpu", threads=1))
    inputs = [{"x": np.array([[f"a{n}", "日本", ""]], object)} for n in range(4)]
    async with batcher(engine, max_wait_ms=20, max_batch=4) as batch:
        outputs = await asyncio.gather(*(batch.submit(item, NEVER) for item in inputs))

    assert [output.batch_size for output in outputs] == [4] * 4
    assert [output.arrays["y"].tolist() for output in outputs] == [[[f"a{n}", "日本", ""]] for n in range(4)]


async def test_statistics_count_requests_rows_and_runs() -> None:
    engine = Doubler()
    engine.bad = {9.0}
    async with batcher(engine, max_queue=2) as batch:
        first = await held(engine, batch)
        items = spawn(batch.submit(x(1, 2), NEVER), batch.submit(x(9), NEVER))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batch.submit(x(5), NEVER)
        engine.gate.set()
        await asyncio.gather(first, *items, return_exceptions=True)
        counted = batch.statistics

    assert (counted.success.count, counted.fail.count, counted.inferences, counted.executions) == (2, 2, 3, 2)
    assert {rows: run.infer.count for rows, run in counted.batches.items()} == {1: 1, 2: 1}
    assert counted.queue.count == counted.compute_infer.count == counted.compute_input.count == 2
    assert counted.success.seconds >= counted.compute_infer.seconds > 0
    assert abs(counted.last_inference_time - time.time()) < 60
