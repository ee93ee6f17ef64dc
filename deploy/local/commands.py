"""The subcommands of `trivium` that look after a run on this machine: ps, stop."""

import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from deploy.local.control import Refused, ask_to_stop
from deploy.local.run_dir import RunDir
from deploy.local.settings import run_folder
from services.kit.errors import StartupError
from trivium.client.output import as_json, complain, table

FIELDS = ("component", "instance", "pid", "address", "log_file")


@click.command()
@click.option("--json", "as_document", is_flag=True, help="Print JSON.")
def ps(as_document: bool) -> None:
    """Lists the processes of a run on this machine.

    The run is that of TRIVIUM_RUN_DIR or, without it, of TRIVIUM_GATEWAY__GRPC_PORT (8001).
    """
    folder = _folder()
    found = [{field: asdict(process)[field] for field in FIELDS} for process in RunDir(folder).processes()]
    if as_document:
        as_json(found)
    elif found:
        table(FIELDS, [list(process.values()) for process in found], elastic="log_file")
    else:
        complain(f"no run is up in {folder}", "start one with `make run`")


@click.command()
@click.argument("instance")
def stop(instance: str) -> None:
    """Stops one instance of a run, such as vision-1.

    It finishes its calls, and nothing takes its place. Exits with 1 if there is no such instance or no run.
    """
    try:
        click.echo(ask_to_stop(_folder(), instance))
    except Refused as error:
        complain(str(error))
        sys.exit(1)


def _folder() -> Path:
    try:
        return run_folder(os.environ)
    except StartupError as error:
        raise click.UsageError(f"{error}: {error.hint}") from error
