"""Ports of this machine: which are free, and who has those that are not."""

import contextlib
import random
import socket
from collections.abc import Sequence
from typing import Any

import psutil

from deploy.local.settings import GatewayAddress
from services.kit.errors import StartupError

# Below the range that the system takes ports of outgoing connections from (32768 on Linux, 49152 elsewhere), so that
# none of them is taken between the choice and its use.
FREE_PORTS = range(20_000, 32_000)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Different ports on which nothing listens, neither TCP nor UDP."""
    found: list[int] = []
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        if len(found) == count:
            break
        if all(_can_bind(host, port, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            found.append(port)
    return found


def check_gateway_ports(address: GatewayAddress) -> None:
    """Finds out early that the gateway could not listen.

    Raises:
        StartupError: both ports are the same, or one of them is taken; says by whom.
    """
    ports = {"GRPC_PORT": address.grpc_port, "HTTP_PORT": address.http_port}
    if address.grpc_port == address.http_port:
        raise StartupError(f"the gateway's two ports are both {address.grpc_port}", hint=_other_ports(list(ports)))
    for name, port in ports.items():
        if not _can_bind(address.host, port, socket.SOCK_STREAM):
            raise StartupError(
                f"the gateway's port {port} is taken by {_owner(port)}",
                hint=f"stop that first, or choose another port: {_other_ports([name])}",
            )


def listens(pid: int, port: int) -> bool:
    """Whether that process listens on the TCP port."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(_is_listener(found, port) for found in connections)


def _is_listener(connection: Any, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr.port == port)


def _can_bind(host: str, port: int, kind: socket.SocketKind) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind is socket.SOCK_STREAM)
        with contextlib.suppress(OSError):
            probe.bind((host, port))
            return True
    return False


def _owner(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for found in psutil.net_connections("tcp"):
            if found.pid and _is_listener(found, port):
                return f"process {found.pid} ({_command(found.pid)})"
    return "another process"


def _command(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        command = " ".join(psutil.Process(pid).cmdline())
        return command if len(command) <= 80 else f"{command[:77]}..."
    return "unknown"


def _other_ports(names: Sequence[str]) -> str:
    examples = {"GRPC_PORT": 8101, "HTTP_PORT": 8100}
    return " ".join(f"TRIVIUM_GATEWAY__{name}={examples[name]}" for name in names)
