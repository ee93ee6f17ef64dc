import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from services.kit.errors import (
    DeadlineExpired,
    DeadlineUnreachable,
    Draining,
    InvalidField,
    NotReady,
    Overloaded,
    StartupError,
    TriviumError,
)
from services.kit.inference.batcher import Batcher, Output
from services.kit.inference.engine import Engine, EngineSettings
from tests import bundles as tiny
from tests.unit.kit.inference.engines import Doubler, batcher, x

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
        for value in values:
            await batch.submit(x(value), NEVER, admitted=True, followed=True)

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


async def test_an_expired_item_never_reaches_the_engine() -> None:
    registry, engine = CollectorRegistry(), Doubler()
    async with batcher(engine, registry) as batch:
        first = await held(engine, batch)
        expiring = spawn(*(batch.submit(x(value), Deadline.after(0.1)) for value in (1, 2)))
        [patient] = spawn(batch.submit(x(3), NEVER))
        await asyncio.sleep(0.11)
        engine.gate.set()
        await first
        results = await asyncio.gather(*expiring, return_exceptions=True)
        assert value(await patient) == 6

    assert [type(result) for result in results] == [DeadlineExpired, DeadlineExpired]
    assert all(isinstance(result, TriviumError) and result.metadata["executed"] == "no" for result in results)
    assert engine.values() == [[100], [3]]
    assert registry.get_sample_value("trivium_batch_late_items_total", {"model": "test", "version": "1"}) == 0
    labels = {"model": "test", "version": "1", "reason": "expired"}
    assert registry.get_sample_value("trivium_batch_dropped_items_total", labels) == 2


async def test_an_item_that_expires_while_its_batch_is_joined_is_dropped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Doubler()
    async with batcher(engine) as batch:
        first = await held(engine, batch)
        items = spawn(batch.submit(x(1), Deadline.after(0.2)), batch.submit(x(2), NEVER), batch.submit(x(3), NEVER))
        await asyncio.sleep(0)
        concatenate = np.concatenate

        def slowly(arrays: Any, **arguments: Any) -> Any:
            if len(arrays) == 3:
                time.sleep(0.25)
            return concatenate(arrays, **arguments)

        monkeypatch.setattr(np, "concatenate", slowly)
        engine.gate.set()
        results = await asyncio.gather(first, *items, return_exceptions=True)

    assert isinstance(results[1], DeadlineExpired)
    assert engine.values() == [[100], [2, 3]]


async def test_an_item_that_expires_while_its_batch_is_split_is_dropped_too() -> None:
    engine = Doubler()
    engine.bad = {1.0}
    async with batcher(engine) as batch:
        first = await held(engine, batch)
        items = spawn(batch.submit(x(1), NEVER), batch.submit(x(2), Deadline.after(0.2)))
        await asyncio.sleep(0)
        engine.before = lambda: time.sleep(0.25) if len(engine.runs[-1][1]) == 2 else None
        engine.gate.set()
        results = await asyncio.gather(first, *items, return_exceptions=True)

    assert isinstance(results[2], DeadlineExpired)
    assert engine.values() == [[100], [1, 2], [1]]


async def test_items_whose_callers_left_free_their_places_at_once_and_cost_no_run() -> None:
    engine = Doubler()
    async with batcher(engine, max_queue=500) as batch:
        first = await held(engine, batch)
        leaving = spawn(*(batch.submit(x(value), NEVER) for value in range(1, 501)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batch.submit(x(1000), NEVER)
        for item in leaving:
            item.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        assert batch.waiting == 0

        [late] = spawn(batch.submit(x(1000), NEVER))
        engine.gate.set()
        assert value(await late) == 2000
        await first

    assert engine.values() == [[100], [1000]]


async def test_one_more_item_than_the_queue_holds_is_refused_with_a_time_to_retry() -> None:
    engine = Doubler()
    async with batcher(engine, max_queue=2) as batch:
        first = await held(engine, batch)
        items = spawn(batch.submit(x(1), NEVER), batch.submit(x(2), NEVER))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await batch.submit(x(3), NEVER)
        assert refused.value.metadata == {"limit": "2", "value": "2"}
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0
        engine.gate.set()
        await asyncio.gather(first, *items)


class Slow(Doubler):
    """Each run takes 20 ms."""

    def run(self, inputs: Any, outputs: Any) -> Any:
        arrays = super().run(inputs, outputs)
        time.sleep(0.02)
        return arrays


async def test_what_was_admitted_before_waits_however_long_the_line_and_the_estimate() -> None:
    engine = Slow()
    async with batcher(engine, max_batch=1, max_queue=1) as batch:
        first = await held(engine, batch)
        [waiting] = spawn(batch.submit(x(1), NEVER))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batch.submit(x(2), NEVER)
        admitted = spawn(*(batch.submit(x(value), NEVER, admitted=True) for value in (3, 4, 5)))
        with pytest.raises(Overloaded, match="1 items wait"):  # they take no place of those that may be refused
            await batch.submit(x(2), NEVER)
        late = Deadline.after(0.05)  # six runs of 20 ms are ahead of it
        [hopeless] = spawn(batch.submit(x(6), late, admitted=True))
        await asyncio.sleep(0)
        assert batch.waiting == 5
        engine.gate.set()
        outputs = await asyncio.gather(first, waiting, *admitted)
        with pytest.raises(DeadlineExpired):  # accepted, not refused; but nothing is computed for nobody
            await hopeless
    with pytest.raises(Draining):
        await batch.submit(x(7), NEVER, admitted=True)

    assert [value(output) for output in outputs] == [200, 2, 6, 8, 10]
    assert [6.0] not in engine.values()


async def test_a_run_of_many_steps_is_estimated_by_them() -> None:
    engine = Slow()
    async with batcher(engine, max_batch=1) as batch:
        first = await held(engine, batch)
        waiting = spawn(*(batch.submit(x(value), NEVER, steps=10) for value in (1, 2)))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineUnreachable) as refused:
            await batch.submit(x(3), Deadline.after(0.2))
        assert float(refused.value.metadata["value_ms"]) > 2 * 10 * 20
        engine.gate.set()
        await asyncio.gather(first, *waiting)


async def test_a_deadline_before_the_end_of_the_queue_is_refused_at_the_door() -> None:
    engine = Slow()
    async with batcher(engine, max_batch=1) as batch:
        first = await held(engine, batch)
        waiting = spawn(*(batch.submit(x(value), NEVER) for value in range(1, 6)))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineUnreachable) as refused:
            await batch.submit(x(50), Deadline.after(0.06))
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s >= 0.1
        [patient] = spawn(batch.submit(x(60), Deadline.after(10)))
        engine.gate.set()
        assert value(await patient) == 120
        await asyncio.gather(first, *waiting)

    assert [50.0] not in engine.values()


async def test_the_run_in_progress_counts_for_the_estimate() -> None:
    engine = Slow()
    async with batcher(engine, max_batch=1) as batch:
        first = await held(engine, batch)
        with pytest.raises(DeadlineUnreachable):
            await batch.submit(x(1), Deadline.after(0.03))
        engine.gate.set()
        await first


async def test_a_free_engine_tries_whatever_the_estimate_says() -> None:
    engine = Slow()
    async with batcher(engine, max_batch=1) as batch:
        engine.serving = True
        for _ in range(40):
            batch._slack.record(5.0)
        assert value(await batch.submit(x(1), Deadline.after(1.0))) == 2


async def test_at_twice_the_capacity_items_are_refused_at_the_door_and_not_lost_in_the_queue() -> None:
    engine, ends = Slow(), Counter[str]()

    async def call(batch: Batcher) -> None:
        deadline = Deadline.after(0.2)
        try:
            async with asyncio.timeout_at(deadline.at):
                await batch.submit(x(1), deadline)
            ends["answered"] += 1
        except (DeadlineUnreachable, Overloaded):
            ends["refused"] += 1
        except (DeadlineExpired, TimeoutError):
            ends["lost"] += 1

    async with batcher(engine, max_batch=4) as batch, asyncio.TaskGroup() as group:
        engine.serving = True
        for _ in range(150):  # 400 a second, where 4 items in 20 ms make 200
            for _ in range(4):
                group.create_task(call(batch))
            await asyncio.sleep(0.01)

    assert ends["refused"] > 0
    assert ends["lost"] <= ends["answered"] / 2, ends


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


async def test_an_item_with_too_many_rows_or_none_is_refused() -> None:
    async with batcher(Doubler(), max_batch=2) as batch:
        for rows in (0, 3):
            with pytest.raises(InvalidField, match="1 to 2 rows"):
                await batch.submit({"x": np.zeros((rows, 1), np.float32)}, NEVER)


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
