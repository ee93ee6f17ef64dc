"""Plot: capacity against concurrency, and latency under load, as one picture."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.bench.facts import Facts
from tests.bench.spread import Spread
from tests.bench.summary import CapacityRow, LatencyRow, Summary

LINES = {"direct": "-", "gateway": "--"}


def draw(path: Path, facts: Facts, summary: Summary) -> None:
    """Writes a PNG: above a panel for each model, below the percentiles of all workloads."""
    models = list(dict.fromkeys(row.model for row in summary.bare))
    figure = Figure(figsize=(7 * len(models), 10), layout="constrained")
    figure.suptitle(f"{facts.cpu}, {facts.cores} cores, {facts.date[:10]}, commit {facts.commit}")
    grid = figure.add_gridspec(2, len(models))
    for column, model in enumerate(models):
        _capacity(figure.add_subplot(grid[0, column]), model, summary)
        _latency(figure.add_subplot(grid[1, column]), model, summary)
    figure.savefig(path, dpi=110)


def _capacity(axes: Any, model: str, summary: Summary) -> None:
    """Calls a second with their lowest and highest round, and the bare engine as horizontal lines."""
    lines: dict[tuple[str, str], list[CapacityRow]] = {}
    for row in summary.capacity:
        if row.workload.startswith(f"{model} "):
            lines.setdefault((row.workload, row.target), []).append(row)
    colours = _colours([workload for workload, _ in lines])
    for (workload, target), rows in lines.items():
        at = [row.concurrency for row in rows]
        spreads = [row.calls_per_s for row in rows]
        label = f"{workload.removeprefix(model).strip()}, {target}"
        style = {"linestyle": LINES[target], "color": colours[workload], "marker": "o", "capsize": 3}
        axes.errorbar(at, [s.median for s in spreads], yerr=_whiskers(spreads), label=label, **style)
    for bare in summary.bare:
        if bare.model == model:
            axes.axhline(bare.rows_per_s.median, color="grey", linewidth=0.8)
            place = axes.get_yaxis_transform()
            axes.text(0.99, bare.rows_per_s.median, f"bare, batch {bare.rows}", size=7, ha="right", transform=place)
    axes.set(title=f"{model}: capacity", xlabel="calls in flight", ylabel="calls/s", xscale="log", ylim=(0, None))
    ticks = sorted({row.concurrency for rows in lines.values() for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.legend(fontsize=8)


def _latency(axes: Any, model: str, summary: Summary) -> None:
    rows: list[LatencyRow] = [row for row in summary.latency if row.workload.startswith(f"{model} ")]
    width = 0.8 / 3
    for index, (name, field) in enumerate((("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"))):
        spreads: list[Spread] = [getattr(row, field) for row in rows]
        at = [place + (index - 1) * width for place in range(len(rows))]
        axes.bar(at, [s.median for s in spreads], width, yerr=_whiskers(spreads), label=name, capsize=2)
    labels = [
        f"{row.workload.removeprefix(model).strip()}\n{row.target}\n{row.offered_per_s.median:.0f}/s" for row in rows
    ]
    axes.set_xticks(range(len(rows)), labels, fontsize=8)
    axes.set(title=f"{model}: latency under load", ylabel="ms")
    axes.legend(fontsize=8)


def _whiskers(spreads: list[Spread]) -> list[list[float]]:
    return [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]


def _colours(workloads: list[str]) -> dict[str, str]:
    return {workload: f"C{index}" for index, workload in enumerate(dict.fromkeys(workloads))}
