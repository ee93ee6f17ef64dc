"""The subcommands of `trivium` that ask a server: classify, models, health."""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import grpc

from trivium.client.client import DEFAULT_ADDRESS, Client
from trivium.client.errors import TriviumCallError
from trivium.client.output import as_json, complain, quoted, table
from trivium.client.results import Classification, Model
from trivium.client.words import Words, standard_input

Command = TypeVar("Command", bound=Callable[..., None])

SOME_FAILED, UNREACHABLE = 1, 3  # exit codes; click's own 2 is wrong usage
TIMEOUT_S = 10.0
SHOWN = 80  # characters of a name in a complaint


def address_option(command: Command) -> Command:
    """Which server to ask."""
    return click.option(
        "--address",
        envvar="TRIVIUM_ADDRESS",
        default=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        show_default=True,
        show_envvar=True,
        help="The server to ask.",
    )(command)


def options_within(timeout_s: float) -> Callable[[Command], Command]:
    """The options of every command that asks a server and prints its answer, which comes within so many seconds."""

    def options(command: Command) -> Command:
        timeout = click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(min=0.001),
            metavar="SECONDS",
            default=timeout_s,
            show_default=True,
            help="Longest wait for one call.",
        )
        as_document = click.option("--json", "as_document", is_flag=True, help="Print JSON.")
        return address_option(timeout(as_document(command)))

    return options


def server_options(command: Command) -> Command:
    """Those of most commands."""
    return options_within(TIMEOUT_S)(command)


def model_option(command: Command) -> Command:
    """Which model to ask."""
    text = "NAME, NAME:VERSION or NAME@LABEL.  [default: the service's]"
    return click.option("--model", type=Words(reads=False), default="", metavar="NAME", help=text)(command)


@click.command()
@click.argument("images", nargs=-1, required=True)
@model_option
@click.option(
    "--top-k", type=click.IntRange(1, 100), default=None, help="Classes to print for each image.  [default: 1]"
)
@server_options
def classify(
    images: tuple[str, ...], model: str, top_k: int | None, as_document: bool, timeout_s: float, address: str
) -> None:
    """Says what is on images: files, or - for standard input.

    Exits with 0 if all were classified, 1 if some were not, 2 for wrong usage, 3 if no server answered.
    """
    with connection(address, timeout_s) as client:
        show_classes(
            "file", [classified("file", name, _asking(client, name, model, top_k)) for name in images], as_document
        )


def _asking(client: Client, name: str, model: str, top_k: int | None) -> Callable[[], Classification]:
    def ask() -> Classification:
        image = standard_input() if name == "-" else Path(name).read_bytes()
        return client.classify(image, model, top_k or 1)

    return ask


@dataclass(frozen=True, slots=True)
class Classified:
    """What became of one thing that was to be classified."""

    succeeded: bool
    rows: Sequence[Sequence[str]]  # its lines of the table
    document: Mapping[str, Any]


def classified(kind: str, name: str, ask: Callable[[], Classification]) -> Classified:
    """Asks; where that fails, it is said and the others go on.

    Args:
        kind: what the thing is, for JSON.
        name: what it is called.
    """
    started = time.perf_counter()
    try:
        answer = ask()
    except OSError as error:
        complain(f"{_short(name)}: {error.strerror or error}")
        return Classified(
            False, (), {kind: name, "error": {"code": "", "reason": "", "message": error.strerror or str(error)}}
        )
    except TriviumCallError as error:
        if silent(error):
            raise
        complain(f"{_short(name)}: {error}", advice(error))
        return Classified(False, (), {kind: name, "error": failure(error)})
    ms = (time.perf_counter() - started) * 1e3
    return Classified(True, _rows(name, answer, ms), {kind: name, **asdict(answer), "ms": round(ms, 3)})


def show_classes(kind: str, answers: Sequence[Classified], as_document: bool) -> NoReturn:
    """Prints all answers and ends the command."""
    rows = [row for answer in answers for row in answer.rows]
    if as_document:
        as_json([answer.document for answer in answers])
    elif rows:
        table((kind, "label", "probability", "model", "ms"), rows, elastic=kind)
    sys.exit(0 if all(answer.succeeded for answer in answers) else SOME_FAILED)


def _rows(name: str, answer: Classification, ms: float) -> list[tuple[str, ...]]:
    """One line for each class; what holds for all of them stands in every line, so that each can be read alone."""
    served = f"{answer.model}:{answer.version}"
    return [(name, found.label, f"{found.probability:.4f}", served, f"{ms:.1f}") for found in answer.classes]


@click.command()
@click.argument("name", type=Words(reads=False), default="")
@server_options
def models(name: str, as_document: bool, timeout_s: float, address: str) -> None:
    """Lists the models, or describes one of them.

    NAME is NAME, NAME:VERSION or NAME@LABEL. Exits with 0, 1 if there is no such model, 3 if no server answered.
    """
    with connection(address, timeout_s) as client:
        if name:
            _describe(client.model(name), as_document)
            return
        found = client.models()
    show_models(found, as_document)


def show_models(found: Sequence[Model], as_document: bool) -> None:
    """A line for each."""
    if as_document:
        as_json([asdict(model) for model in found])
    else:
        columns = ("model", "service", "task", "state", "default", "labels")
        table(columns, [_line(model) for model in found], elastic="labels")


def _line(model: Model) -> tuple[str, ...]:
    default = "yes" if model.is_default else ""
    return f"{model.name}:{model.version}", model.service, model.task, model.state, default, ", ".join(model.labels)


def _describe(model: Model, as_document: bool) -> None:
    if as_document:
        as_json(asdict(model))
        return
    _, service, task, state, default, labels = _line(model)
    rows = [("model", f"{model.name}:{model.version}"), ("description", model.description), ("service", service)]
    rows += [("task", task), ("state", state), ("default", default or "no"), ("labels", labels)]
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        rows += [(kind, f"{tensor.name} {tensor.datatype} {list(tensor.shape)}") for tensor in tensors]
    limits = [
        ("longest horizon", model.max_horizon),
        ("most steps", model.max_steps),
        ("most tokens", model.max_tokens),
    ]
    rows += [(limit, str(most)) for limit, most in limits if most]
    rows += [("classes", ", ".join(model.classes)), ("digest", model.digest)]
    rows += _lines("", model.card)
    table(("field", "value"), [row for row in rows if row[1]], elastic="value")


def _lines(key: str, value: Any, depth: int = 3) -> Iterator[tuple[str, str]]:
    """What a model card says in words and single numbers; tables deep inside it are for --json."""
    if isinstance(value, dict) and depth:
        for name, item in value.items():
            yield from _lines(f"{key}.{name}" if key else name, item, depth - 1)
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield from ((key, item) for item in value)
    elif isinstance(value, str | int | float):
        yield key, str(value)


@click.command()
@click.argument("name", type=Words(reads=False), default="")
@server_options
def health(name: str, as_document: bool, timeout_s: float, address: str) -> None:
    """Says whether a server is serving.

    NAME asks for a part of it: model/NAME, model/NAME/VERSION, readiness, liveness, startup or a gRPC service. Exits
    with 0 if it is serving, 1 if not, 3 if no server answered.
    """
    with connection(address, timeout_s) as client:
        status = _status(client, name)
    if as_document:
        as_json({"name": name, "status": status})
    else:
        click.echo(f"{name or address}: {status}")
    sys.exit(0 if status == "SERVING" else 1)


def _status(client: Client, name: str) -> str:
    try:
        return "SERVING" if client.health(name) else "NOT_SERVING"
    except TriviumCallError as error:
        if error.code is not grpc.StatusCode.NOT_FOUND:
            raise
        return "SERVICE_UNKNOWN"


@contextmanager
def connection(address: str, timeout_s: float = TIMEOUT_S) -> Iterator[Client]:
    """A client for one command; a call that fails ends the command with words for people."""
    try:
        client = Client(address, timeout_s=timeout_s)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with client:
        try:
            yield client
        except TriviumCallError as error:
            complain(*explain(error, address, timeout_s))
            sys.exit(UNREACHABLE if silent(error) else SOME_FAILED)


def silent(error: TriviumCallError) -> bool:
    """Whether no server said anything: nobody listens, or nothing came back in time."""
    return error.unreachable or (error.code is grpc.StatusCode.DEADLINE_EXCEEDED and not error.reason)


def explain(error: TriviumCallError, address: str, timeout_s: float) -> tuple[str, str]:
    """What went wrong, and what to do about it."""
    if error.unreachable:
        return f"nothing answers at {address}", "start it with `make run`, or name another server with --address"
    if silent(error):
        return f"no answer from {address} within {timeout_s:g} s", "give it longer with --timeout"
    return str(error), advice(error)


def advice(error: TriviumCallError) -> str:
    """What to do about a failure that the server explained; empty where its own words say it."""
    if error.reason == "MODEL_NOT_FOUND":
        return "`trivium models` lists the models"
    if too_large := re.search(
        r"(?:CLIENT: Sent|SERVER: Received) message larger than max \(\d+ vs\. (\d+)\)", error.message
    ):
        return f"one call sends at most {int(too_large[1]) / 2**20:g} MiB: send less at once"
    return ""


def failure(error: TriviumCallError) -> dict[str, Any]:
    """The error as JSON."""
    return {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "metadata": dict(error.metadata),
        "retry_after_s": error.retry_after_s,
    }


def _short(name: str) -> str:
    """As much of it as fits into a line; quotation marks where there is nothing."""
    return name if 0 < len(name) <= SHOWN else quoted(name[: SHOWN - 3] + "..." if name else "")
