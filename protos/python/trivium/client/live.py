"""Live: answers shown as they come, in a chart on the terminal or line by line."""

import base64
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from trivium.client.chart import Curve, class_curves, drawn, forecast_curves, value_curves
from trivium.client.results import Model, TrackAnswer

SHOWN = 200  # steps in a chart, the latest
TALLEST = 18  # rows of a chart
REFRESHES_PER_S = 8


class LiveChart:
    """A context manager: what the model says of the latest steps, drawn anew as they come.

    Args:
        describe: the model of that name; asked once, where the chart shows the series itself.
    """

    def __init__(self, console: Console, describe: Callable[[str], Model]) -> None:
        self._console, self._describe = console, describe
        self._model: Model | None = None  # of a stream without classes
        self._sent: deque[float] = deque()  # numbers on the way that have no answer yet
        self._steps: deque[tuple[float, TrackAnswer]] = deque(maxlen=SHOWN)
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=REFRESHES_PER_S)

    def __enter__(self) -> "LiveChart":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def recorded(self, messages: Iterable[list[float]]) -> Iterator[list[float]]:
        """The messages, as they are sent; the chart shows their numbers once they are answered."""
        for message in messages:
            self._sent.extend(message)
            yield message

    def show(self, answer: TrackAnswer) -> None:
        """Adds the answer to the chart."""
        value = math.nan  # the step's first number; not shown beside classes
        if answer.classes:
            self._sent.clear()
        else:
            self._model = self._model or self._describe(answer.model)
            value, *_ = [self._sent.popleft() for _ in range(width(self._model))]
        self._steps.append((value, answer))

    def _picture(self) -> Group | Text:
        steps = list(self._steps)
        if not steps:
            return Text("waiting for the first answer", style="dim")
        last, size = steps[-1][1], self._console.size
        limits = (0.0, 1.0) if last.classes else None
        return picture(f"{last.model}, step {last.step}", self._curves(steps), size.width, size.height, limits)

    def _curves(self, steps: list[tuple[float, TrackAnswer]]) -> list[Curve]:
        answers = [answer for _, answer in steps]
        if answers[-1].classes:
            return class_curves(answers)
        if self._model is not None and self._model.max_horizon:
            series = [(answer.step, value) for value, answer in steps]
            return forecast_curves(series, answers[-1].values[:: width(self._model)])
        return value_curves(answers)


class Printed:
    """Prints each answer as a line, at once: for pipes with tabs, after a line of titles, or as JSON."""

    def __init__(self, as_document: bool) -> None:
        self._as_document, self._begun = as_document, False

    def __enter__(self) -> "Printed":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def recorded(self, messages: Iterable[list[float]]) -> Iterable[list[float]]:
        """The messages, as they are sent."""
        return messages

    def show(self, answer: TrackAnswer) -> None:
        """Prints the answer."""
        if self._as_document:
            click.echo(json.dumps(document(answer), ensure_ascii=False))
            return
        titles, cells = zip(*row(answer), strict=True)
        if not self._begun:
            click.echo("\t".join(titles))
        self._begun = True
        click.echo("\t".join(cells))


def row(answer: TrackAnswer) -> Iterator[tuple[str, str]]:
    """The cells of an answer's line, each with its title."""
    yield "step", str(answer.step)
    for number, found in enumerate(answer.classes, 1):
        suffix = "" if number == 1 else f"_{number}"
        yield f"label{suffix}", found.label
        yield f"probability{suffix}", f"{found.probability:.4f}"
    for number, value in enumerate(answer.values, 1):
        yield f"value_{number}", f"{value:.7g}"


def document(answer: TrackAnswer) -> dict[str, object]:
    """The answer as JSON; the state, where there is one, in base64."""
    return {**asdict(answer), "state": base64.b64encode(answer.state).decode()}


def picture(
    title: str, curves: list[Curve], columns: int, lines: int, limits: tuple[float, float] | None = None
) -> Group:
    """A chart below its title and the names of its curves; it leaves room for what is typed next."""
    heading = Text(title, style="bold", no_wrap=True, overflow="ellipsis")
    for curve in curves:
        heading.append(f"  ━ {curve.name}", style=f"not bold color({curve.color})")
    return Group(heading, Text.from_ansi(drawn(curves, columns, min(TALLEST, lines - 4), limits)))


def width(model: Model) -> int:
    """Numbers in one step of a series that the model reads."""
    return max(1, model.inputs[0].shape[-1])
