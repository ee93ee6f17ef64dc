"""The subcommands of `trivium` that load and unload models."""

import click

from trivium.client.commands import connection, options_within, show_models
from trivium.client.model_calls import LOAD_TIMEOUT_S
from trivium.client.words import Words


@click.command()
@click.argument("name", type=Words(reads=False))
@options_within(LOAD_TIMEOUT_S)
def load(name: str, as_document: bool, timeout_s: float, address: str) -> None:
    """Loads a model on every instance of its service.

    NAME is that of a bundle, without a version: all of its versions are loaded and warmed up. Exits with 0, 1 if some
    instance could not load it or nobody has it, 3 if no server answered.
    """
    with connection(address, timeout_s) as client:
        show_models(client.load(name, timeout_s=timeout_s), as_document)


@click.command()
@click.argument("name", type=Words(reads=False))
@options_within(LOAD_TIMEOUT_S)
def unload(name: str, as_document: bool, timeout_s: float, address: str) -> None:
    """Takes a model out of service on every instance.

    NAME is that of a bundle, without a version. Calls that were accepted are answered before. An instance that starts
    later loads it again. Exits with 0, 1 if that
    failed somewhere or nobody has it, 3 if no server answered.
    """
    with connection(address, timeout_s) as client:
        client.unload(name, timeout_s=timeout_s)
        found = client.models(name)
    show_models(found, as_document)
    click.echo(f"`trivium load {name}` brings it back", err=True)
