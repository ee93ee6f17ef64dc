"""The subcommands of `trivium` that look after a run on this machine: ps, stop."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from deploy.local.control import Refused, ask_to_stop
from deploy.local.run_dir import RunDir
from deploy.local.runs import Run, absence, run_in, runs
from deploy.local.settings import run_folder
from services.kit.errors import StartupError
from trivium.client.output import as_json, complain, table

FIELDS = ("component", "instance", "pid", "address", "log_file")


@click.command()
@click.option("--json", "as_document", is_flag=True, help="Print JSON.")
def ps(as_document: bool) -> None:
    """Lists the processes of a run on this machine.

    The run is that of TRIVIUM_RUN_DIR or, without it, of TRIVIUM_GATEWAY__GRPC_PORT (8001). Says on standard error
    which other ones are up, and how to ask them; not with --json.
    """
    folder = _folder()
    found = [{field: asdict(process)[field] for field in FIELDS} for process in RunDir(folder).processes()]
    if as_document:
        as_json(found)
        return
    up = runs()
    if found:
        table(FIELDS, [list(process.values()) for process in found], elastic="log_file")
    elif run_in(folder, up):
        complain(f"the run in {folder} has no processes yet, or none any more")
    else:
        complain(absence(folder), "start one with `make run`")
    _name_others(up, folder, "ps")


@click.command()
@click.argument("instance")
def stop(instance: str) -> None:
    """Stops one instance of a run, such as vision-1; `make stop` stops the whole run.

    It finishes its calls, and nothing takes its place. Exits with 1 if there is no such instance or no run.
    """
    folder = _folder()
    try:
        click.echo(ask_to_stop(folder, instance))
    except Refused as error:
        complain(str(error))
        _name_others(runs(), folder, f"stop {instance}")
        sys.exit(1)


def _name_others(up: Sequence[Run], folder: Path, command: str) -> None:
    """Says which runs are up besides that of the folder, and how to ask them."""
    here = run_in(folder, up)
    if others := [_how_to_ask(run, command) for run in up if run is not here]:
        complain("another run is up:" if len(others) == 1 else "other runs are up:", "\n         ".join(others))


def _how_to_ask(run: Run, command: str) -> str:
    where = run.address or "no gateway yet"
    return f"TRIVIUM_RUN_DIR={shlex.quote(str(run.folder))} .venv/bin/trivium {command}    # {where}"


def _folder() -> Path:
    try:
        return run_folder(os.environ)
    except StartupError as error:
        raise click.UsageError(f"{error}: {error.hint}") from error
