import asyncio

from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from tests.unit.kit.inference.engines import Doubler, batcher, x

LABELS = {"model": "test", "version": "1"}


async def test_prometheus_sees_the_queue_the_runs_and_what_was_dropped() -> None:
    registry, engine = CollectorRegistry(), Doubler()
    engine.bad = {9.0}

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, LABELS | labels)

    async with batcher(engine, registry) as batch:
        engine.serving = True
        engine.hold()
        items = [asyncio.create_task(batch.submit(x(100), Deadline()))]
        assert await asyncio.to_thread(engine.entered.wait, 10)
        items += [asyncio.create_task(batch.submit(x(value), Deadline())) for value in (1, 2, 9)]
        await asyncio.sleep(0)
        assert value("trivium_batch_queue_items") == 3
        items[2].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert value("trivium_batch_queue_items") == 2
        engine.gate.set()
        await asyncio.gather(*items, return_exceptions=True)
        assert value("trivium_batch_queue_items") == 0

    assert value("trivium_batch_rows_count") == value("trivium_batch_compute_seconds_count") == 2
    assert value("trivium_batch_rows_sum") == 2
    assert value("trivium_batch_queue_seconds_count") == 2
    assert value("trivium_batch_dropped_items_total", reason="cancelled") == 1
    assert value("trivium_batch_failed_runs_total") == 2  # the pair, then the culprit alone
    assert value("trivium_batch_late_items_total") == 0
