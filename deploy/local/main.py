"""The command line of the launcher: --replicas N, --cpu."""

import asyncio
import os
import sys
from pathlib import Path

import click
import structlog

from deploy.local.launcher import Launcher, Options
from deploy.local.progress import Progress
from deploy.local.run_dir import RunDir
from deploy.local.settings import GatewayAddress, check_components, run_folder
from deploy.local.suite import GATEWAY, service_names
from services.kit.errors import StartupError


@click.command()
@click.option("--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="Instances of each service.")
@click.option("--cpu", is_flag=True, help="Keep off the GPU.")
def main(replicas: int, cpu: bool) -> None:
    """Starts Consul, the services and the gateway, and keeps them up until it is interrupted."""
    for name in [name for name in os.environ if name.startswith("CONSUL_")]:
        del os.environ[name]  # they speak of another Consul, and Consul's clients prefer them to what they are told
    try:
        check_components(os.environ, {GATEWAY, *service_names()})
        address, run_dir = GatewayAddress.of(os.environ), RunDir(run_folder(os.environ))
        with run_dir.held():
            _send_logs_to(run_dir.log_file("launcher"))
            asyncio.run(Launcher(Options(replicas, cpu), address, run_dir, Progress()).run())
    except StartupError as error:
        click.echo(f"error: {error}\n       {error.hint}", err=True)
        sys.exit(1)


def _send_logs_to(path: Path) -> None:
    """What the kit logs in this process (Consul's watch) is no news for the terminal."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        logger_factory=structlog.WriteLoggerFactory(path.open("a", encoding="utf-8")),
    )
