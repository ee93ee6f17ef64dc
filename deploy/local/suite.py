"""The programs of a suite: which there are, what they are called and what they are told."""

import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.child import Program
from deploy.local.settings import ROOT, GatewayAddress, told

GATEWAY = "gateway"


def service_names(folder: Path = ROOT / "services") -> list[str]:
    """The services that there are: the folders that can be run as a module."""
    return sorted(found.parent.name for found in folder.glob("*/__main__.py"))


def service_program(
    service: str, number: int, consul_address: str, environ: Mapping[str, str], *, cpu: bool
) -> Program:
    """One instance of a service, named after it and its number."""
    instance = f"{service}-{number}"
    decided = {
        "INSTANCE": instance,
        "CONSUL__ADDRESS": consul_address,
        "LOG__CALLS": _logged_calls(service, environ),
    }
    if cpu:
        decided["ENGINE__DEVICE"] = "cpu"
    return Program(service, instance, _python(f"services.{service}"), _environment(environ, service, decided))


def gateway_program(consul_address: str, environ: Mapping[str, str], address: GatewayAddress) -> Program:
    """The gateway."""
    decided = {
        "INSTANCE": GATEWAY,
        "CONSUL__ADDRESS": consul_address,
        "GRPC_PORT": str(address.grpc_port),
        "HTTP_PORT": str(address.http_port),
        "LOG__CALLS": _logged_calls(GATEWAY, environ),
        # It leaves first, and what is behind it still needs some of the 10 s in which a run ends.
        "DRAIN_S": told(GATEWAY, "drain_s", environ) or "4",
    }
    return Program(GATEWAY, GATEWAY, _python("gateway"), _environment(environ, GATEWAY, decided))


def _logged_calls(component: str, environ: Mapping[str, str]) -> str:
    """A line for every call would soon be all that the log files hold."""
    return told(component, "log.calls", environ) or "failed"


def _python(module: str) -> tuple[str, ...]:
    return sys.executable, "-m", module


def _environment(environ: Mapping[str, str], component: str, decided: Mapping[str, str]) -> dict[str, str]:
    """The launcher's own environment, and above it what this run decides."""
    settings = {f"TRIVIUM_{component.upper()}__{key}": value for key, value in decided.items()}
    return {**environ, "PYTHONUNBUFFERED": "1", **settings}
