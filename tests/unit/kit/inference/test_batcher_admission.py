"""Items that can be answered in time are accepted; the others are refused at the door or dropped before the engine."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from services.kit.errors import DeadlineExpired, DeadlineUnreachable, Draining, InvalidField, Overloaded, TriviumError
from services.kit.inference.batcher import Batcher
from tests.unit.kit.inference.engines import Doubler, batcher, x
from tests.unit.kit.inference.submissions import NEVER, Slow, held, spawn, value


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Puts the clock that deadlines are on forward, by so many seconds; it goes on from there."""
    real, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + sum(ahead))
    return ahead.append


async def test_an_expired_item_never_reaches_the_engine(pass_time: Callable[[float], None]) -> None:
    registry, engine = CollectorRegistry(), Doubler()
    async with batcher(engine, registry) as batch:
        first = await held(engine, batch)
        expiring = spawn(*(batch.submit(x(value), Deadline.after(60)) for value in (1, 2)))
        [patient] = spawn(batch.submit(x(3), NEVER))
        await asyncio.sleep(0)
        pass_time(61)
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


async def test_an_item_that_expires_while_its_batch_is_joined_is_dropped_too(
    monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None]
) -> None:
    engine = Doubler()
    async with batcher(engine) as batch:
        first = await held(engine, batch)
        items = spawn(batch.submit(x(1), Deadline.after(60)), batch.submit(x(2), NEVER), batch.submit(x(3), NEVER))
        await asyncio.sleep(0)
        concatenate = np.concatenate

        def slowly(arrays: Any, **arguments: Any) -> Any:
            if len(arrays) == 3:
                pass_time(61)
            return concatenate(arrays, **arguments)

        monkeypatch.setattr(np, "concatenate", slowly)
        engine.gate.set()
        results = await asyncio.gather(first, *items, return_exceptions=True)

    assert isinstance(results[1], DeadlineExpired)
    assert engine.values() == [[100], [2, 3]]


async def test_an_item_that_expires_while_its_batch_is_split_is_dropped_too(
    pass_time: Callable[[float], None],
) -> None:
    engine = Doubler()
    engine.bad = {1.0}
    async with batcher(engine) as batch:
        first = await held(engine, batch)
        items = spawn(batch.submit(x(1), NEVER), batch.submit(x(2), Deadline.after(60)))
        await asyncio.sleep(0)
        engine.before = lambda: pass_time(61) if len(engine.runs[-1][1]) == 2 else None
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


async def test_an_item_with_too_many_rows_or_none_is_refused() -> None:
    async with batcher(Doubler(), max_batch=2) as batch:
        for rows in (0, 3):
            with pytest.raises(InvalidField, match="1 to 2 rows"):
                await batch.submit({"x": np.zeros((rows, 1), np.float32)}, NEVER)
