"""Sums of counters never go back, whatever becomes of the instances."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import statistics
from gateway.statistics import Statistics
from inference import grpc_service_pb2 as oip


def counted(
    requests: int, *, name: str = "digits", version: str = "1", sizes: tuple[int, ...] = (1,)
) -> oip.ModelStatistics:
    """Counters after so many requests."""
    made = oip.ModelStatistics(name=name, version=version, inference_count=requests, execution_count=requests)
    made.last_inference = 1000 + requests
    made.inference_stats.success.count, made.inference_stats.success.ns = requests, requests * 10
    for size in sizes:
        made.batch_stats.add(batch_size=size).compute_infer.count = requests
    return made


def total(sums: Statistics) -> int:
    """Inferences of the one model."""
    return sum(found.inference_count for found in sums.sums().values())


def test_counters_of_all_instances_are_summed_by_model_and_version() -> None:
    sums = Statistics()
    sums.update("a", [counted(3, sizes=(1, 4)), counted(5, version="2")])
    sums.update("b", [counted(4, sizes=(4, 8))])
    found = sums.sums()
    assert list(found) == [("digits", "1"), ("digits", "2")]
    one = found["digits", "1"]
    assert (one.inference_count, one.last_inference, one.inference_stats.success.ns) == (7, 1004, 70)
    assert {batch.batch_size: batch.compute_infer.count for batch in one.batch_stats} == {1: 3, 4: 7, 8: 4}


def test_versions_are_sorted_as_numbers() -> None:
    sums = Statistics()
    sums.update("a", [counted(1, version=version) for version in ("10", "9", "1")])
    assert [version for _, version in sums.sums()] == ["1", "9", "10"]


def test_the_counters_of_a_dead_instance_stay() -> None:
    sums = Statistics()
    sums.update("dead", [counted(5)])
    sums.update("alive", [counted(1)])
    sums.update("alive", [counted(2)])
    assert total(sums) == 7


def test_an_instance_that_begins_anew_loses_nothing() -> None:
    sums = Statistics()
    sums.update("a", [counted(5)])
    sums.update("a", [counted(1)])
    sums.update("a", [counted(2)])
    assert total(sums) == 7


def test_asking_twice_counts_once() -> None:
    sums = Statistics()
    sums.update("a", [counted(5)])
    assert (total(sums), total(sums)) == (5, 5)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 20)), max_size=40))
def test_sums_never_go_back(updates: list[tuple[str, int]]) -> None:
    limit, statistics.MAX_INSTANCES = statistics.MAX_INSTANCES, 3  # so that old instances are folded together
    try:
        sums, before = Statistics(), 0
        for name, requests in updates:
            sums.update(name, [counted(requests)])
            assert total(sums) >= before
            before = total(sums)
    finally:
        statistics.MAX_INSTANCES = limit
