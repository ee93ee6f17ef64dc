"""Ends a run that goes on in the background: python -m deploy.local.stop [RUN]."""

import os
import select
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import psutil

from deploy.local.runs import Run, absence, run_in, runs
from deploy.local.settings import folder_of_port, names_a_run, run_folder
from services.kit.errors import StartupError

LIMIT_S = 20.0  # a run ends within 10 s, on a machine that is not busy


class Unclear(Exception):
    """No run was found to be meant; the text says why."""


@click.command()
@click.argument("run", required=False)
def main(run: str | None) -> None:
    """Ends a run as Ctrl-C does, and returns when it has ended.

    RUN is its gateway's port or address, or its folder. Without RUN, it is the run that TRIVIUM_RUN_DIR or
    TRIVIUM_GATEWAY__GRPC_PORT speaks of, or else the only one. Exits with 0 if there was nothing to end, too.
    """
    found = runs()
    try:
        end(chosen(found, run, os.environ))
    except Unclear as error:
        click.echo("\n".join((str(error), *_choices(found))), err=bool(found))
        sys.exit(1 if found else 0)
    except StartupError as error:
        click.echo(f"error: {error}\n       {error.hint}", err=True)
        sys.exit(1)


def chosen(found: Sequence[Run], name: str | None, environ: Mapping[str, str]) -> Run:
    """The run that is meant.

    Raises:
        Unclear: there is none of that name, none at all, or more than one.
        StartupError: the environment does not say what it should.
    """
    if name is not None:
        return _named(found, name)
    folder = run_folder(environ)
    if names_a_run(environ) or not found:
        return _in(found, folder)
    if len(found) > 1:
        raise Unclear(f"{len(found)} runs are up: which one?")
    return found[0]


def end(run: Run, limit_s: float = LIMIT_S) -> None:
    """Asks the launcher to end, and waits until it has.

    Raises:
        StartupError: it has not, in that time.
    """
    started, pid = time.monotonic(), run.launcher.pid
    click.echo(f"stopping the run in {run.folder} ({run.address or 'no gateway yet'}, process {pid}) ...")
    if not _terminated(run.launcher, limit_s):
        hint = f"`kill -9 {pid}` ends it at once, and all that it has started"
        raise StartupError(f"it has not ended within {limit_s:g} s", hint=hint)
    click.echo(f"it has ended, after {time.monotonic() - started:.1f} s")


def _terminated(process: psutil.Process, limit_s: float) -> bool:
    """Whether it has ended in time, once told to; psutil itself would wait for its parent to take notice, too."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:  # somebody else was faster
        return True
    try:
        process.terminate()
        ended, _, _ = select.select([descriptor], [], [], limit_s)
        return bool(ended)
    except psutil.NoSuchProcess:  # the same, and its pid has another process
        return True
    finally:
        os.close(descriptor)


def _named(found: Sequence[Run], name: str) -> Run:
    port = name.rpartition(":")[2]
    if not port.isdecimal():
        return _in(found, Path(name))
    at_port = [run for run in found if run.port == port]
    return at_port[0] if at_port else _in(found, folder_of_port(port))


def _in(found: Sequence[Run], folder: Path) -> Run:
    run = run_in(folder, found)
    if run is None:
        raise Unclear(f"{absence(folder)}; up is" if found else absence(folder))
    return run


def _choices(found: Sequence[Run]) -> list[str]:
    return [f"  make stop RUN={shlex.quote(str(run.folder))}    # {run.address or 'no gateway yet'}" for run in found]


if __name__ == "__main__":
    main()
