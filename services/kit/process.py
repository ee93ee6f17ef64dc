"""ProcessSettings: what every component can be told, and the name that a process goes by."""

import socket
import uuid
from dataclasses import dataclass, field

from services.kit.discovery.client import ConsulSettings
from services.kit.errors import SettingsError, StartupError
from services.kit.settings import setting
from services.kit.telemetry import LogSettings
from services.kit.transport.server import ServerLimits

ANY_HOST = ("0.0.0.0", "::", "")
AUTO = "auto"  # as ADVERTISE_ADDRESS: the address that this machine's own name stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """Base of every component's settings."""

    host: str = "127.0.0.1"  # address to listen on
    grpc_port: int = setting(0, low=0, high=65535)  # 0: a free one, which is registered
    http_port: int = setting(0, low=0, high=65535)  # metrics and /healthz
    health_port: int | None = setting(None, low=0, high=65535)  # grpc.health.v1 in plain text; unset: the gRPC port
    advertise_address: str = ""  # what others dial; empty: the host; "auto": what this machine's name stands for
    instance: str = ""  # name of this process; empty: component, host name and six random digits
    drain_s: float = setting(8.0, low=0)  # longest wait for accepted calls when leaving
    consul: ConsulSettings = field(default_factory=ConsulSettings)
    log: LogSettings = field(default_factory=LogSettings)
    limits: ServerLimits = field(default_factory=ServerLimits)

    def advertised_host(self) -> str:
        """The host that others dial.

        Raises:
            StartupError: HOST is every address of this machine, and ADVERTISE_ADDRESS does not say which to dial; or it
                is "auto" where this machine's name stands for no address that others could dial.
        """
        if self.advertise_address == AUTO:
            return _own_address()
        if not self.advertise_address and self.host in ANY_HOST:
            raise SettingsError(
                f"HOST is {self.host!r} and ADVERTISE_ADDRESS is not set",
                hint="set ADVERTISE_ADDRESS to the address that other machines reach this one by",
            )
        return self.advertise_address or self.host


def _own_address() -> str:
    """What the name of this machine, or of this container, stands for."""
    name = socket.gethostname()
    try:
        found = socket.gethostbyname(name)
    except OSError:
        found = ""
    if not found or found.startswith("127."):
        raise StartupError(
            f"ADVERTISE_ADDRESS is {AUTO!r}, and the name of this machine, {name!r}, stands for {found or 'nothing'}",
            hint="set ADVERTISE_ADDRESS to the address that other machines reach this one by",
        )
    return found


def new_instance_name(component: str) -> str:
    """A name that no other process has: component, host name and six hexadecimal digits."""
    return f"{component}-{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
