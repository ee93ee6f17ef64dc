"""The arithmetic of the benchmark: what it says of measurements must be true."""

import itertools
import math
from random import Random

import pytest

from tests.bench import arrivals, results
from tests.bench.__main__ import engine_settings, told
from tests.bench.ceiling import Ceiling
from tests.bench.cores import Cores, divided
from tests.bench.outcome import Outcome, Record, outcome
from tests.bench.rounds import BarePoint, Kind, Point, nearest_size
from tests.bench.spread import Spread, percentile, ratios
from tests.bench.stand import Sample, Target
from tests.bench.summary import summarise
from tests.bench.table import render


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile([7.0], 0.01) == 7.0
    assert math.isnan(percentile([], 0.5))


def test_a_ratio_compares_within_a_round() -> None:
    assert ratios([50, 10], [100, 20]) == Spread(0.5, 0.5, 0.5)
    assert math.isnan(ratios([1], [0]).median)


def test_the_median_of_no_rounds_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rounds"):
        Spread.of([])


def test_poisson_arrivals_have_the_rate_and_exponential_gaps() -> None:
    instants = arrivals.poisson(200, 100, Random(1))
    assert len(instants) == pytest.approx(20_000, rel=0.03)
    assert list(instants) == sorted(instants)
    assert 0 <= instants[0] < instants[-1] < 100
    gaps = [after - before for before, after in itertools.pairwise(instants)]
    longer_than_mean = sum(gap > 1 / 200 for gap in gaps) / len(gaps)
    assert longer_than_mean == pytest.approx(math.exp(-1), abs=0.02)


def test_latency_counts_from_the_intended_instant() -> None:
    late = Record(intended=1.0, sent=1.5, ended=2.0, status="OK")
    counted = outcome([late], 0.0, 3.0, cpu_s=0.0, examples={})
    assert counted.latencies_s == (1.0,)
    assert counted.lag_p99_s == 0.5


def test_only_right_answers_within_the_window_are_throughput() -> None:
    records = [
        Record(0, 0, 0.9, "OK"),  # warm-up
        Record(1, 1, 1.5, "OK"),
        Record(1, 1, 1.6, "WRONG_ANSWER"),
        Record(1, 1, 1.7, "RESOURCE_EXHAUSTED"),
        Record(2, 2, 3.1, "OK"),  # too late
    ]
    counted = outcome(records, 1.0, 3.0, cpu_s=0.5, examples={})
    assert counted.ok_per_s == 0.5
    assert counted.sent == 5
    assert counted.failures == {"WRONG_ANSWER": 1, "RESOURCE_EXHAUSTED": 1}
    assert counted.sent_per_s == 2.0


@pytest.mark.parametrize(("rows", "size"), [(0, 1), (1.4, 1), (2.9, 2), (3.1, 4), (15.8, 16), (500, 64)])
def test_a_mean_batch_is_compared_with_the_nearest_power_of_two(rows: float, size: int) -> None:
    assert nearest_size(rows) == size


def test_generator_and_measured_processes_share_no_core() -> None:
    assert divided([0, 1]) == Cores((0,), (1,), pinned=True)
    assert divided([2, 3, 4, 5, 6]) == Cores((2, 3, 4), (5, 6), pinned=True)
    assert not divided([3]).pinned


def test_the_bare_engine_gets_the_settings_of_the_service() -> None:
    environ = {"TRIVIUM_VISION__ENGINE__SPINNING": "0", "TRIVIUM_GATEWAY__LOG__CALLS": "none", "HOME": "/root"}
    settings = told(environ, Cores((0, 1), (2,), pinned=True))
    assert settings["gateway"] == {"LOG__CALLS": "none"}
    engine = engine_settings(settings)
    assert (engine.threads, engine.spinning, engine.device) == (2, False, "cpu")


def test_tables_line_up() -> None:
    assert render(["model", "n"], [["a", "1"], ["long name", "1000"]]).splitlines() == [
        "| model     |    n |",
        "| :-------- | ---: |",
        "| a         |    1 |",
        "| long name | 1000 |",
    ]


def test_the_summary_compares_each_round_with_its_own_ceiling() -> None:
    points = [
        _point("direct", round_=1, ok=80, batch=1),
        _point("gateway", round_=1, ok=40, batch=1),
        _point("direct", round_=2, ok=40, batch=4),
        _point("gateway", round_=2, ok=30, batch=4),
    ]
    bare = [_bare(1, 1, 100), _bare(2, 1, 50), _bare(2, 4, 80)]
    direct, gateway = summarise(points, bare).capacity
    assert direct.of_bare_one == Spread(0.8, 0.8, 0.8)
    assert direct.of_bare_reached == Spread(0.65, 0.5, 0.8)
    assert direct.of_direct is None
    assert gateway.of_direct == Spread(0.625, 0.5, 0.75)
    assert direct.service_cpu_s.median == pytest.approx(20.0)


def test_failures_below_the_capacity_and_late_items_are_unsound() -> None:
    bare = [_bare(1, 1, 100)]
    assert summarise([_point("direct", 1, 80)], bare).sound
    assert summarise([_point("direct", 1, 80, kind="overload", failures=5)], bare).sound
    assert not summarise([_point("direct", 1, 80, failures=1)], bare).sound
    assert not summarise([_point("direct", 1, 80, kind="departed", late=1)], bare).sound


def test_json_has_null_where_a_figure_has_no_value() -> None:
    assert results.finite({"p50_ms": math.nan, "rows": (1, [math.inf])}) == {"p50_ms": None, "rows": [1, [None]]}


def _point(
    target: Target,
    round_: int,
    ok: int,
    batch: int = 1,
    *,
    kind: Kind = "closed",
    failures: int = 0,
    late: int = 0,
) -> Point:
    statuses = {"OK": ok, "UNAVAILABLE": failures} if failures else {"OK": ok}
    seen = Outcome(
        sent=100,
        statuses=statuses,
        window_s=1.0,
        ok=ok,
        latencies_s=(0.001,) * ok,
        sending_s=1.0,
        lag_p99_s=0.0,
        cpu_s=0.5,
        examples={},
    )
    sample = Sample(seen, 2.0, 1.0, runs=10, rows=10 * batch, late_items=late, dropped_items=0)
    return Point(
        kind=kind,
        round=round_,
        model="m",
        workload="m Classify",
        target=target,
        concurrency=8,
        capacity_per_s=100.0,
        sample=sample,
    )


def _bare(round_: int, rows: int, rate: float) -> BarePoint:
    return BarePoint(round_, "m", Ceiling(rows, rate, 1.0, 1.0))
