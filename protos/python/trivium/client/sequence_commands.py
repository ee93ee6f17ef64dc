"""The subcommands of `trivium` that ask about series of numbers: track, forecast."""

import errno
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console

from trivium.client.chart import forecast_curves
from trivium.client.client import Client
from trivium.client.commands import SOME_FAILED, address_option, connection, model_option, server_options
from trivium.client.errors import TriviumCallError
from trivium.client.live import SHOWN, LiveChart, Printed, picture, width
from trivium.client.output import as_json, complain, table
from trivium.client.progress import Progress, terminable
from trivium.client.results import Forecast, Model
from trivium.client.series import ColumnError, NoNumbers, SeriesError, messages, opened
from trivium.client.values import LARGEST_COUNT
from trivium.exits import INTERRUPTED

Command = TypeVar("Command", bound=Callable[..., None])

NO_NUMBERS = 2  # exit code
CHARTED = 10  # classes to ask for where a chart shows how they change


def series_options(command: Command) -> Command:
    """Where a series comes from."""
    file = click.argument("file", default="-", metavar="[FILE]")
    text = "Column to read, by its name in the header; again for a step of several."
    return file(click.option("--column", "columns", multiple=True, metavar="NAME", help=text)(command))


@click.command()
@series_options
@model_option
@click.option("--top-k", type=click.IntRange(1, 100), default=None, help="Classes in each answer.  [default: 1]")
@click.option("--resume", type=click.Path(path_type=Path), metavar="FILE", help="Go on from the state in FILE.")
@click.option("--save-state", type=click.Path(path_type=Path), metavar="FILE", help="Leave the last state in FILE.")
@click.option("--json", "as_document", is_flag=True, help="Print JSON, one line an answer.")
@address_option
def track(
    file: str,
    columns: tuple[str, ...],
    model: str,
    top_k: int | None,
    resume: Path | None,
    save_state: Path | None,
    as_document: bool,
    address: str,
) -> None:
    """Answers a series step by step, as it comes.

    FILE, or standard input, has numbers in lines, with commas or blanks between them; the first line may be a header.
    Lines are read as they come: `tail -f LOG | trivium track` answers each of them at once. On a terminal a chart
    follows the series; elsewhere each answer is a line of classes, or of value_1, value_2, ...: those of a model that
    forecasts are its next steps, one after the other, each as wide as a step of the series.

    Exits with 0, 1 if the stream failed or FILE holds something else, 2 for wrong usage or no numbers, 3 if no server
    answered, 130 on Ctrl-C, 143 on SIGTERM; the state is saved anyway.
    """
    with ended(save_state) as progress, reading(file), connection(address) as client, opened(file) as read:
        state = resume.read_bytes() if resume else b""
        if resume and not state:
            raise SeriesError(f"{resume} holds no state")
        progress.resume(state)
        charted = not as_document and sys.stdout.isatty() and not (file == "-" and sys.stdin.isatty())
        with LiveChart(Console(), client.model) if charted else Printed(as_document) as shown:
            answers = client.track(
                shown.recorded(messages(read, columns, complain)),
                model,
                top_k=top_k or (CHARTED if charted else None),
                resume_state=state,
                return_state=save_state is not None,
                width=len(columns) or None,
            )
            with located(client, progress, len(columns)):
                for answer in answers:
                    progress.answered(answer)
                    shown.show(answer)


@contextmanager
def ended(save_state: Path | None) -> Iterator[Progress]:
    """How far the command came, in order however it ends."""
    try:
        progress = Progress(save_state)
    except ValueError as error:
        raise click.UsageError(f"--save-state {error}") from error
    with terminable(), progress:
        yield progress


@contextmanager
def located(client: Client, progress: Progress, size: int) -> Iterator[None]:
    """Says which number of the input was refused: the server counts those of one message, and lines that are there
    together are sent in one.

    Args:
        size: numbers in a step; 0 where the columns do not say it, so that the model is asked.
    """
    try:
        yield
    except TriviumCallError as error:
        place = re.match(r"values\[(\d+)\]", error.message)
        if place:
            before = progress.answers * (size or width(client.model(progress.model))) if progress.answers else 0
            complain(f"number {before + int(place[1]) + 1} of the input was refused")
        raise


@click.command()
@series_options
@click.option(
    "--horizon", type=click.IntRange(1, LARGEST_COUNT), default=None, help="Steps to forecast.  [default: the longest]"
)
@model_option
@server_options
def forecast(
    file: str,
    columns: tuple[str, ...],
    horizon: int | None,
    model: str,
    as_document: bool,
    timeout_s: float,
    address: str,
) -> None:
    """Says how a series goes on.

    FILE, or standard input, has the series so far: numbers in lines, with commas or blanks between them; the first line
    may be a header. Exits with 0, 1 if there is no forecast, 2 for wrong usage or no numbers, 3 if no server answered.
    """
    with reading(file), connection(address, timeout_s) as client, opened(file) as read:
        values = [number for message in messages(read, columns, complain) for number in message]
        started = time.perf_counter()
        answer = client.forecast(_steps(values, len(columns)) if columns else values, horizon, model)
        ms = (time.perf_counter() - started) * 1e3
        if as_document:
            as_json({"file": file, **asdict(answer), "ms": round(ms, 3)})
        else:
            _show(client.model(f"{answer.model}:{answer.version}"), values, answer)


def _steps(values: list[float], size: int) -> list[list[float]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _show(model: Model, values: list[float], answer: Forecast) -> None:
    size = width(model)
    steps = _steps(list(answer.values), size)
    if not sys.stdout.isatty():
        titles = ["value"] if size == 1 else [f"value_{number}" for number in range(1, size + 1)]
        table(
            ["step", *titles], [(number, *map("{:.7g}".format, step)) for number, step in enumerate(steps, 1)], "step"
        )
        return
    series = list(enumerate(values[::size], 1))[-SHOWN:]
    curves = forecast_curves(series, [step[0] for step in steps])
    console = Console(highlight=False)
    title = f"{model.name}:{model.version}, {len(steps)} steps ahead"
    console.print(picture(title, curves, console.size.width, console.size.height - 1))
    console.print("   ".join(" ".join(map("{:.4g}".format, step)) for step in steps))


@contextmanager
def reading(file: str) -> Iterator[None]:
    """Says in words for people why a series could not be read, and ends the command."""
    try:
        yield
    except BrokenPipeError:  # whoever read the answers has left
        raise
    except ColumnError as error:
        raise click.UsageError(_words(file, error)) from error
    except NoNumbers:
        complain(f"no numbers in {_named(file)}")
        sys.exit(NO_NUMBERS)
    except (SeriesError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # it is the answers that have no room
        complain(_words(file, error))
        sys.exit(SOME_FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _words(file: str, error: SeriesError | OSError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or file}: {error.strerror or error}"
    return f"{_named(file)}: {error}"


def _named(file: str) -> str:
    return "standard input" if file == "-" else file
