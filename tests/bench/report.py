"""Report: the summary as Markdown, for the terminal, for a file and for BENCHMARKS.md."""

from collections.abc import Mapping, Sequence

from tests.bench.facts import Facts
from tests.bench.outcome import Outcome
from tests.bench.rounds import LATENCY_LOAD, OVERLOAD, OVERLOAD_RUNS, OVERLOAD_TIMEOUT_S, BarePoint, Point
from tests.bench.spread import Spread
from tests.bench.summary import Summary
from tests.bench.table import render


def markdown(facts: Facts, summary: Summary, command: str, settings: Mapping[str, Mapping[str, str]]) -> str:
    """The whole report."""
    return "\n\n".join(
        [
            f"### {facts.date[:10]}: {facts.cpu}, {facts.cores} cores",
            _conditions(facts, command, settings),
            "**The bare engine**: `session.run` in a closed loop, same session options, same cores, no transport.",
            _bare(summary),
            "**Capacity** (closed loop; `c` calls in flight). CPU seconds are those of 1000 calls. `of bare b=1`: of "
            "the bare engine at batch 1; `of bare b=n`: at the batch size nearest to the one that the batcher reached.",
            _capacity(summary),
            f"**Latency** (open loop, Poisson arrivals at {LATENCY_LOAD:.0%} of the capacity), from the instant at "
            "which a call was to be sent. `lag`: how late the generator itself was.",
            _latency(summary),
            f"**Overload** ({OVERLOAD:g} times the capacity, deadline {OVERLOAD_TIMEOUT_S * 1e3:.0f} ms, "
            f"or {OVERLOAD_RUNS} runs where that is longer).",
            _overload(summary),
            "**No work for the departed**: calls at once whose deadline is shorter than the queue. `late` items "
            "reached the engine after their deadline.",
            _departed(summary),
        ]
    )


def progress(point: Point | BarePoint) -> str:
    """One line for one measurement."""
    if isinstance(point, BarePoint):
        ceiling = point.ceiling
        return (
            f"bare {point.model} batch {ceiling.rows}: {ceiling.rows_per_s:.0f} rows/s, {ceiling.run_ms:.2f} ms a run"
        )
    outcome, how = (
        point.sample.outcome,
        f"c={point.concurrency}" if point.concurrency else f"{point.offered_per_s:.0f}/s",
    )
    if point.kind == "departed":
        how = f"{outcome.sent} at once"
    times = f"p50 {outcome.latency_ms(0.5):.2f} ms, p99 {outcome.latency_ms(0.99):.2f} ms"
    text = f"{point.kind} {point.workload} {point.target} {how}: {outcome.ok_per_s:.0f} calls/s, {times}"
    return f"{text}, batch {point.sample.batch:.1f}{_but(outcome)}"


def _conditions(facts: Facts, command: str, settings: Mapping[str, Mapping[str, str]]) -> str:
    pinned = (
        f"service, gateway and bare engine on core(s) {_list(facts.measured_cores)}, "
        f"generator and Consul on {_list(facts.generator_cores)}"
        if facts.pinned
        else "no pinning"
    )
    told = [f"{part}: {key}={value}" for part, values in settings.items() for key, value in values.items()]
    return (
        f"`{command}`, commit {facts.commit}, Python {facts.python}, {facts.onnxruntime}, grpcio {facts.grpcio}; "
        f"{pinned}; settings {', '.join(told) or 'as by default'}; load average before {facts.load_average[0]:.1f}. "
        "Median of the rounds, with the lowest and the highest."
    )


def _bare(summary: Summary) -> str:
    rows = [
        [row.model, str(row.rows), _figure(row.rows_per_s, 0), _figure(row.run_ms, 2), _figure(row.cpu_s_per_1000, 2)]
        for row in summary.bare
    ]
    return render(["model", "batch", "rows/s", "ms a run", "CPU s/1000 rows"], rows)


def _capacity(summary: Summary) -> str:
    rows = [
        [
            row.workload,
            row.target,
            str(row.concurrency),
            _figure(row.calls_per_s, 0),
            _figure(row.of_bare_one, 2),
            f"{_figure(row.of_bare_reached, 2)} n={row.bare_size}",
            _figure(row.of_direct, 2) if row.of_direct else "",
            f"{row.batch.median:.1f}",
            _figure(row.p50_ms, 1),
            f"{row.service_cpu_s.median:.2f}",
            f"{row.gateway_cpu_s.median:.2f}" if row.target == "gateway" else "",
            f"{row.generator_cpu_s.median:.2f}",
            _failures(row.failures),
        ]
        for row in summary.capacity
    ]
    head = ["workload", "target", "c", "calls/s", "of bare b=1", "of bare b=n", "of direct", "batch", "p50 ms"]
    return render([*head, "CPU s service", "gateway", "generator", "failed"], rows)


def _latency(summary: Summary) -> str:
    rows = [
        [
            row.workload,
            row.target,
            _figure(row.offered_per_s, 0),
            *(_figure(spread, 1) for spread in (row.p50_ms, row.p90_ms, row.p99_ms, row.lag_p99_ms)),
            _failures(row.failures),
        ]
        for row in summary.latency
    ]
    head = ["workload", "target", "offered/s", "p50 ms", "p90 ms", "p99 ms", "lag p99 ms", "failed"]
    return render(head, rows)


def _overload(summary: Summary) -> str:
    rows = [
        [
            row.workload,
            row.target,
            _figure(row.capacity_per_s, 0),
            _figure(row.offered, 2),
            _figure(row.goodput, 2),
            f"{row.timeout_ms:.0f}",
            _figure(row.p99_ms, 1),
            str(row.late_items),
            _failures(row.failures),
        ]
        for row in summary.overload
    ]
    head = ["workload", "target", "capacity/s", "offered / capacity", "goodput / capacity"]
    return render([*head, "deadline ms", "p99 ms", "late", "not answered"], rows)


def _departed(summary: Summary) -> str:
    rows = [
        [
            row.workload,
            row.target,
            str(row.calls),
            f"{row.timeout_ms:.0f}",
            str(row.answered),
            str(row.computed),
            str(row.late_items),
            _failures(row.failures),
        ]
        for row in summary.departed
    ]
    return render(["workload", "target", "calls", "deadline ms", "answered", "computed", "late", "not answered"], rows)


def _figure(spread: Spread, digits: int) -> str:
    """ "1200 [1100-1250]"; the median alone where there was one round."""
    median, low, high = (f"{value:.{digits}f}" for value in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} [{low}-{high}]"


def _failures(failures: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(failures.items())) or "0"


def _but(outcome: Outcome) -> str:
    """What failed, with an example of each."""
    if not outcome.failures:
        return ""
    examples = "".join(f"\n             {status}: {text}" for status, text in sorted(outcome.examples.items()))
    return f", not answered: {_failures(outcome.failures)}{examples}"


def _list(cores: Sequence[int]) -> str:
    return ",".join(map(str, cores))
