"""Charts for the terminal: curves over steps, as text with colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trivium.client.results import TrackAnswer

LEADING = 5  # classes in one chart
# Colours of the 256 that terminals have: the ten digits differ, on dark ground and on light.
PALETTE = (33, 34, 160, 37, 133, 172, 99, 70, 244, 168)
LOWEST = 5  # rows


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    name: str
    color: int  # one of the terminal's 256
    points: Sequence[tuple[float, float]]  # step and value


def drawn(curves: Sequence[Curve], width: int, height: int, limits: tuple[float, float] | None = None) -> str:
    """The chart as text, the first curve on top of the others: `height` lines of `width` characters with their colours.

    Args:
        limits: lowest and highest value of the vertical axis; those of the curves if not given.
    """
    import plotext  # its drawing code is a library of its own, which only terminals need

    plotext.terminal.limit(False, False)
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(width, max(height, LOWEST))
    figure.legend(False)
    for curve in reversed(curves):
        points = [(step, value) for step, value in curve.points if math.isfinite(value)]
        marker = plotext.marker("braille", curve.color)
        signal = figure.signal([step for step, _ in points], [value for _, value in points], marker=marker)
        figure.draw(signal.lines(True))
    if steps := [step for curve in curves for step, _ in curve.points]:
        found = ticks(min(steps), max(steps), max(2, width // 12))
        figure.ruler("x").ticks(found, labels=[str(tick) for tick in found])
    if limits is not None:
        figure.ruler("y").lim(*limits)
    return str(figure.build().string()).rstrip()


def ticks(low: float, high: float, most: int) -> list[int]:
    """At most `most` whole numbers from `low` to `high` with equal distances of 1, 2 or 5 times a power of ten."""
    for distance in (factor * 10**power for power in range(18) for factor in (1, 2, 5)):
        found = list(range(-int(-low // distance) * distance, int(high // distance) * distance + 1, distance))
        if len(found) <= most:
            return found
    return []


def class_curves(answers: Sequence[TrackAnswer]) -> list[Curve]:
    """The probabilities of the classes that lead after the last of the answers, best first."""
    curves = []
    for leading in answers[-1].classes[:LEADING]:
        points = [
            (answer.step, found.probability)
            for answer in answers
            for found in answer.classes
            if found.index == leading.index
        ]
        curves.append(
            Curve(f"{leading.label} {leading.probability:.1%}", PALETTE[leading.index % len(PALETTE)], points)
        )
    return curves


def forecast_curves(series: Sequence[tuple[int, float]], forecast: Sequence[float]) -> list[Curve]:
    """The series and, from its last step on, its forecast."""
    last = series[-1]
    ahead = [last, *((last[0] + number, value) for number, value in enumerate(forecast, 1))]
    return [Curve("series", PALETTE[0], series), Curve("forecast", PALETTE[5], ahead)]


def value_curves(answers: Sequence[TrackAnswer]) -> list[Curve]:
    """What a model says that neither classifies nor forecasts, number by number."""
    return [
        Curve(f"{value:g}", PALETTE[place % len(PALETTE)], [(answer.step, answer.values[place]) for answer in answers])
        for place, value in enumerate(answers[-1].values[:LEADING])
    ]
