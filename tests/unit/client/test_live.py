"""Live: answers as they come, as lines and as a chart."""

import io
import json
from collections.abc import Iterator

import pytest
from rich.console import Console

from trivium.client.live import SHOWN, LiveChart, Printed, row
from trivium.client.results import Model, RankedClass, TrackAnswer
from trivium.common.v1 import model_pb2


def answer(step: int, *, label: str = "", values: tuple[float, ...] = (), state: bytes = b"") -> TrackAnswer:
    classes = (RankedClass(label, 0, 0.75), RankedClass("other", 1, 0.25)) if label else ()
    return TrackAnswer(step=step, classes=classes, values=values, state=state, model="model:1")


def model(width: int, max_horizon: int) -> Model:
    inputs = [model_pb2.TensorInfo(name="x", datatype="FP32", shape=[-1, -1, width])]
    return Model.of(model_pb2.ModelInfo(name="model", version=1, inputs=inputs, max_horizon=max_horizon))


def test_lines_have_tabs_below_their_titles(capsys: pytest.CaptureFixture[str]) -> None:
    with Printed(as_document=False) as shown:
        assert list(shown.recorded([[1.0]])) == [[1.0]]
        shown.show(answer(1, label="seven"))
        shown.show(answer(2, label="one"))
    assert capsys.readouterr().out.splitlines() == [
        "step\tlabel\tprobability\tlabel_2\tprobability_2",
        "1\tseven\t0.7500\tother\t0.2500",
        "2\tone\t0.7500\tother\t0.2500",
    ]


def test_values_are_numbered() -> None:
    assert list(row(answer(3, values=(1.5, 20.25)))) == [("step", "3"), ("value_1", "1.5"), ("value_2", "20.25")]


def test_json_is_a_line_an_answer_with_the_state_in_base64(capsys: pytest.CaptureFixture[str]) -> None:
    Printed(as_document=True).show(answer(1, label="seven", state=b"\x00\xff"))
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["step"], found["model"], found["state"]) == (1, "model:1", "AP8=")
    assert found["classes"][0] == {"label": "seven", "index": 0, "probability": 0.75}


def shown(described: Model, answers: Iterator[TrackAnswer], numbers: list[list[float]]) -> list[str]:
    """The last picture of a chart on a terminal of 80 columns and 24 lines."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system=None)
    chart = LiveChart(console, lambda name: described)
    list(chart.recorded(numbers))
    for found in answers:
        chart.show(found)
    with console.capture() as captured:
        console.print(chart._picture())
    return captured.get().splitlines()


def test_a_chart_of_classes_has_a_line_of_names_and_leaves_room_on_the_terminal() -> None:
    found = shown(model(1, 0), (answer(step, label="seven") for step in range(1, 65)), [[0.0] * 64])
    assert found[0] == "model:1, step 64  ━ seven 75.0%  ━ other 25.0%"
    assert (len(found), {len(line) for line in found[1:]}) == (19, {80})


@pytest.mark.parametrize(("width", "horizon"), [(1, 3), (2, 3)])
def test_a_chart_of_a_forecast_has_the_numbers_that_were_sent(width: int, horizon: int) -> None:
    numbers = [[float(number) for number in range(width * 4)]]
    values = tuple(range(100, 100 + width * horizon))
    console = Console(file=io.StringIO(), width=80, height=24)
    chart = LiveChart(console, lambda name: model(width, horizon))
    list(chart.recorded(numbers))
    for step in range(5, 9):  # a stream that was resumed after step 4
        chart.show(answer(step, values=values))
    series, forecast = chart._curves(list(chart._steps))
    assert series.points == [(5, 0.0), (6, 1.0 * width), (7, 2.0 * width), (8, 3.0 * width)]
    assert [value for _, value in forecast.points] == [3.0 * width, *values[::width]]


def test_a_model_that_neither_classifies_nor_forecasts_shows_its_values() -> None:
    found = shown(model(1, 0), (answer(step, values=(0.5,)) for step in (1, 2)), [[1.0, 2.0]])
    assert found[0] == "model:1, step 2  ━ 0.5"


def test_a_chart_keeps_the_latest_steps_only() -> None:
    chart = LiveChart(Console(file=io.StringIO()), lambda name: model(1, 0))
    list(chart.recorded([[0.0] * SHOWN * 3]))
    for step in range(1, SHOWN * 3 + 1):
        chart.show(answer(step, label="seven"))
    assert (len(chart._steps), len(chart._sent)) == (SHOWN, 0)


def test_before_the_first_answer_a_chart_says_that_it_waits() -> None:
    assert shown(model(1, 0), iter(()), []) == ["waiting for the first answer"]
