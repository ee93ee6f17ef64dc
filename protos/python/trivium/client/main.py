"""The `trivium` command. Its subcommands are the entry points of the group `trivium.commands`."""

import errno
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from trivium.exits import INTERRUPTED

# grpc's C core writes notes on its own connections to standard error; what matters comes back as an error of the call.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class Commands(click.Group):
    """A group that imports a subcommand when it is asked for, so that one of them starts without the others."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Ends with a word where there is no place or no room for what it says."""
        if sys.stdout is None:  # as a shell's >&- leaves it
            sys.exit("Error: the output cannot be written: standard output is closed")
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
            sys.exit("Error: the output cannot be written: there is no space left")

    def invoke(self, context: click.Context) -> Any:
        """Ends without a word where somebody interrupts it."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            context.exit(INTERRUPTED)

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({found.name for found in _entries()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        entry = next((found for found in _entries() if found.name == name), None)
        return None if entry is None else _load(entry)


def _entries() -> list[EntryPoint]:
    return list(entry_points(group="trivium.commands"))


def _load(entry: EntryPoint) -> click.Command:
    """The command; one that says what is missing where it cannot be imported."""
    try:
        command = entry.load()
    except ImportError as error:
        return _unavailable(entry.name, str(error))
    if not isinstance(command, click.Command):
        return _unavailable(entry.name, f"{entry.value} is no command")
    return command


def _unavailable(name: str, reason: str) -> click.Command:
    def complain(**_: object) -> None:
        raise click.ClickException(f"{name} is not available here: {reason}")

    options = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, callback=complain, context_settings=options, short_help=f"(not available: {reason})")


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Asks a Trivium gateway, and looks after the suite that `make run` started."""
