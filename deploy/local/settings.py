"""What the environment says about a run: the gateway's addresses and the run's folder."""

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.settings import GatewaySettings
from services.kit.errors import StartupError
from services.kit.settings import load, variable

ROOT = Path(__file__).resolve().parents[2]
DRAIN_S = 8.0  # every component's default
EXAMPLE_PORTS = {"grpc_port": 8101, "http_port": 8100}


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
            StartupError: the gateway would refuse its settings, or a port is 0.
        """
        settings = load(GatewaySettings, "gateway", environ)
        for key, example in EXAMPLE_PORTS.items():
            if getattr(settings, key) == 0:
                hint = f"a run needs to know its ports: choose one, for example {variable('gateway', key)}={example}"
                raise StartupError(f"{variable('gateway', key)} is 0", hint=hint)
        return cls(settings.host, settings.grpc_port, settings.http_port)

    @property
    def dialled_host(self) -> str:
        """The host under which this machine reaches the gateway."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)

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


def check_components(environ: Mapping[str, str], components: Collection[str]) -> None:
    """Finds settings of components that there are not, which nobody else would read.

    Raises:
        StartupError: names one, and the component that may be meant.
    """
    for name in environ:
        component, separator, _ = name.removeprefix("TRIVIUM_").partition("__")
        if name.startswith("TRIVIUM_") and separator and component.lower() not in components:
            near = difflib.get_close_matches(component.lower(), components, n=1)
            known = (
                f"did you mean TRIVIUM_{near[0].upper()}__...?" if near else f"known: {', '.join(sorted(components))}"
            )
            raise StartupError(f"{name} is a setting of no component", hint=known)


def run_folder(environ: Mapping[str, str]) -> Path:
    """The folder of the run that this environment speaks of: TRIVIUM_RUN_DIR, or one named after the gateway's port."""
    named = environ.get("TRIVIUM_RUN_DIR", "")
    return Path(named).absolute() if named else folder_of_port(GatewayAddress.of(environ).grpc_port)


def folder_of_port(grpc_port: int | str) -> Path:
    """The folder of a run that nobody gave one."""
    return ROOT / ".run" / str(grpc_port)


def names_a_run(environ: Mapping[str, str]) -> bool:
    """Whether the environment speaks of a certain run, and not of the one with the default ports for want of words."""
    return bool(environ.get("TRIVIUM_RUN_DIR")) or told("gateway", "grpc_port", environ) is not None


def told(component: str, key: str, environ: Mapping[str, str]) -> str | None:
    """What the environment or the component's CONFIG file says about a key (sections dotted), or None.

    The component itself refuses a file that cannot be read and a value that is none, and says so.
    """
    if (value := environ.get(variable(component, key))) is not None:
        return value
    found: object = _file(environ.get(variable(component, "config"), ""))
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return None if found is None else str(found)


def drain_s(component: str, environ: Mapping[str, str]) -> float:
    """Seconds that a component may take for its accepted calls when it leaves."""
    try:
        return float(told(component, "drain_s", environ) or DRAIN_S)
    except ValueError:
        return DRAIN_S


def _file(path: str) -> object:
    try:
        return tomllib.loads(Path(path).read_text("utf-8")) if path else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}
