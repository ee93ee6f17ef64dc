"""What the environment says about a run: the gateway's addresses and the run's folder."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.kit.errors import StartupError

ROOT = Path(__file__).resolve().parents[2]
HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """Where the gateway is to listen."""

    host: str
    grpc_port: int
    http_port: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "GatewayAddress":
        """The address that the gateway itself will read from this environment and its CONFIG file.

        Raises:
            StartupError: a port is no number from 1 to 65535, or the file cannot be read.
        """
        config = _config(environ.get("TRIVIUM_GATEWAY__CONFIG", ""))
        ports = [_port(environ, config, key, default) for key, default in (("grpc_port", 8001), ("http_port", 8000))]
        return cls(environ.get("TRIVIUM_GATEWAY__HOST") or str(config.get("host", "127.0.0.1")), ports[0], ports[1])

    @property
    def dialled_host(self) -> str:
        """The host under which this machine reaches the gateway."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def grpc(self) -> str:
        """host:port of the gRPC port."""
        return self._address(self.grpc_port)

    @property
    def http(self) -> str:
        """host:port of the HTTP port."""
        return self._address(self.http_port)

    def _address(self, port: int) -> str:
        host = self.dialled_host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def run_folder(environ: Mapping[str, str]) -> Path:
    """The folder of the run that this environment speaks of: TRIVIUM_RUN_DIR, or one named after the gateway's port."""
    named = environ.get("TRIVIUM_RUN_DIR", "")
    return Path(named).absolute() if named else ROOT / ".run" / str(GatewayAddress.of(environ).grpc_port)


def drain_s(component: str, environ: Mapping[str, str]) -> float:
    """Seconds that a component may take for its accepted calls when it leaves."""
    try:
        return float(environ.get(f"TRIVIUM_{component.upper()}__DRAIN_S", "8"))
    except ValueError:
        return 8.0  # the component itself refuses it and says so


def _config(path: str) -> Mapping[str, Any]:
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StartupError(
            f"TRIVIUM_GATEWAY__CONFIG: cannot read {path}: {error}", hint="give the path of a readable TOML file"
        ) from error


def _port(environ: Mapping[str, str], config: Mapping[str, Any], key: str, default: int) -> int:
    name = f"TRIVIUM_GATEWAY__{key.upper()}"
    value = environ.get(name) or config.get(key, default)
    try:
        port = int(value)
    except (ValueError, TypeError):
        port = 0
    if not 1 <= port <= HIGHEST_PORT:
        raise StartupError(f"{name} is {value!r}", hint="it must be a port from 1 to 65535, for example 8001")
    return port
