"""A histogram that takes many values at once says what prometheus_client's own says of them."""

import random

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from services.kit.observations import Observations

BUCKETS = (0.001, 0.0025, 1.0, 5.0, 32)


def told(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@pytest.mark.parametrize("labels", [("model",), ("model", "kind")])
def test_it_says_what_one_value_after_the_other_says(labels: tuple[str, ...]) -> None:
    source = random.Random(2)
    known, own = CollectorRegistry(), CollectorRegistry()
    one_by_one = Histogram("steps_seconds", "One run.", labels, buckets=BUCKETS, registry=known)
    at_once = Observations("steps_seconds", "One run.", labels, buckets=BUCKETS, registry=own)
    for each in ("a", "b"):
        values = [*BUCKETS, 0.0, *(source.expovariate(1.0) for _ in range(50)), 1000.0]
        for value in values:
            one_by_one.labels(*[each] * len(labels)).observe(value)
        at_once.labels(*[each] * len(labels)).add(values[:20])
        at_once.labels(*[each] * len(labels)).add(values[20:])
    assert told(own) == told(known)
    assert len(told(own)) > 2 * len(BUCKETS)


def test_labels_without_values_are_there_with_zeros() -> None:
    registry = CollectorRegistry()
    Observations("rows", "Texts in one run.", ("model",), buckets=BUCKETS, registry=registry).labels("a").add([])
    assert registry.get_sample_value("rows_count", {"model": "a"}) == 0
    assert registry.get_sample_value("rows_bucket", {"model": "a", "le": "+Inf"}) == 0


def test_a_name_that_is_taken_is_refused() -> None:
    registry = CollectorRegistry()
    Histogram("rows", "Texts in one run.", ("model",), registry=registry)
    with pytest.raises(ValueError, match="rows"):
        Observations("rows", "Texts in one run.", ("model",), buckets=BUCKETS, registry=registry)
