"""Charts: curves over steps as text of the size that was asked for."""

import math

import pytest
from rich.text import Text

from trivium.client.chart import Curve, class_curves, drawn, forecast_curves, ticks, value_curves
from trivium.client.results import RankedClass, TrackAnswer


def ranked(step: int, *probabilities: float) -> TrackAnswer:
    classes = [RankedClass(f"class {index}", index, probability) for index, probability in enumerate(probabilities)]
    best_first = tuple(sorted(classes, key=lambda found: -found.probability))
    return TrackAnswer(step=step, classes=best_first, values=(), state=b"", model="digits-rnn:1")


def valued(step: int, *values: float) -> TrackAnswer:
    return TrackAnswer(step=step, classes=(), values=values, state=b"", model="sunspots-lstm:1")


def lines(text: str) -> list[str]:
    return [Text.from_ansi(line).plain for line in text.splitlines()]


@pytest.mark.parametrize(("width", "height"), [(80, 18), (200, 30), (40, 8)])
def test_a_chart_fills_exactly_its_place(width: int, height: int) -> None:
    curve = Curve("sine", 33, [(step, math.sin(step / 5)) for step in range(1, 65)])
    found = lines(drawn([curve], width, height))
    assert len(found) == height
    assert {len(line) for line in found} == {width}


def test_a_chart_shows_its_limits_and_whole_steps() -> None:
    found = lines(drawn([Curve("half", 33, [(1, 0.5), (64, 0.5)])], 80, 12, (0.0, 1.0)))
    assert found[1].startswith("1.00")
    assert found[-3].startswith("0.00")
    assert found[-1].split() == ["10", "20", "30", "40", "50", "60"]


def test_every_curve_has_its_colour_and_the_first_is_on_top() -> None:
    points = [(1, 1.0), (9, 1.0)]
    assert "38;5;160m" in drawn([Curve("first", 160, points)], 40, 8)
    both = drawn([Curve("first", 160, points), Curve("second", 37, points)], 40, 8)
    assert ("38;5;160m" in both, "38;5;37m" in both) == (True, False)


def test_one_step_and_numbers_that_are_none_can_be_drawn() -> None:
    assert len(lines(drawn([Curve("one", 33, [(1, 0.5)])], 40, 8))) == 8
    assert len(lines(drawn([Curve("odd", 33, [(1, 0.5), (2, math.nan), (3, math.inf)])], 40, 8))) == 8
    assert len(lines(drawn([Curve("none", 33, [(1, math.nan)])], 40, 8))) == 8


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (1, 64, [10, 20, 30, 40, 50, 60]),
        (1, 1, [1]),
        (1, 3, [1, 2, 3]),
        (1700, 1719, [1700, 1705, 1710, 1715]),
        (5, 5_000_000, [1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]),
    ],
)
def test_ticks_are_few_round_numbers(low: int, high: int, found: list[int]) -> None:
    assert ticks(low, high, 6) == found


def test_the_leading_classes_are_followed_back_and_keep_their_colours() -> None:
    before, after = ranked(1, 0.75, 0.25), ranked(2, 0.25, 0.75)
    (first, second), (one, _) = class_curves([before, after]), class_curves([before])
    assert (first.name, first.points) == ("class 1 75.0%", [(1, 0.25), (2, 0.75)])
    assert second.points == [(1, 0.75), (2, 0.25)]
    assert one.color == second.color != first.color


def test_no_more_classes_than_can_be_told_apart() -> None:
    assert len(class_curves([ranked(1, *[0.01] * 100)])) == 5


def test_a_forecast_goes_on_where_the_series_ends() -> None:
    series, forecast = forecast_curves([(7, 1.0), (8, 2.0)], [3.0, 4.0])
    assert series.points == [(7, 1.0), (8, 2.0)]
    assert forecast.points == [(8, 2.0), (9, 3.0), (10, 4.0)]


def test_other_values_have_a_curve_each() -> None:
    assert [curve.points for curve in value_curves([valued(1, 5.0, 6.0), valued(2, 7.0, 8.0)])] == [
        [(1, 5.0), (2, 7.0)],
        [(1, 6.0), (2, 8.0)],
    ]
