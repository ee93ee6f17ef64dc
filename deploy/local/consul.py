"""DevConsul: a Consul of this run alone, on free ports, that keeps nothing."""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from deploy.local.child import Program
from deploy.local.ports import free_ports
from deploy.local.progress import Progress
from deploy.local.settings import ROOT
from services.kit.errors import StartupError

POLL_S = 0.03
VERSION = re.compile(r"Consul v(\d+)\.(\d+)")
GRPC_TLS_SINCE = (1, 14)  # the port has a default there; older versions refuse its name


async def find_consul(progress: Progress) -> Path:
    """The path of a Consul binary; fetches one where there is none.

    Raises:
        StartupError: there is none, and none could be fetched.
    """
    process = await asyncio.create_subprocess_exec(
        str(ROOT / "deploy/local/get_consul"),
        str(ROOT / ".cache/consul"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # it ends by the signal below and not by a terminal's Ctrl-C
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        lines = []
        async for line in process.stderr:
            lines.append(line.decode("utf-8", "replace").rstrip())
            if lines[-1].startswith("get_consul:"):
                progress.step(lines[-1].removeprefix("get_consul: "))
        path = (await process.stdout.read()).decode().strip()
        if await process.wait() == 0:
            return Path(path)  # absolute, since the folder given is
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    raise StartupError(
        f"there is no Consul: {lines[-1].removeprefix('get_consul: ') if lines else 'get_consul failed'}",
        hint="install it so that `consul` is on PATH: https://developer.hashicorp.com/consul/install",
    )


async def version_of(binary: Path) -> tuple[int, int]:
    """Major and minor version of a Consul binary; (0, 0) where it says neither."""
    process = await asyncio.create_subprocess_exec(
        str(binary),
        "version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    found = VERSION.search(output.decode("utf-8", "replace"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


@dataclass(frozen=True, slots=True)
class DevConsul:
    """One Consul server in development mode: it has a leader within a tenth of a second, where a server that keeps its
    data takes two seconds to elect itself; and what it forgets when it is killed, the services register again."""

    program: Program
    address: str  # of its HTTP API

    @classmethod
    def create(
        cls, binary: Path, version: tuple[int, int], folder: Path, environment: Mapping[str, str]
    ) -> "DevConsul":
        """Chooses free ports and writes the configuration, as that version understands it, into the folder."""
        http, server, serf = free_ports(3)
        ports = {"http": http, "server": server, "serf_lan": serf, "serf_wan": -1, "dns": -1, "grpc": -1}
        if version >= GRPC_TLS_SINCE:
            ports["grpc_tls"] = -1
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(_config(ports), indent=1), "utf-8")
        command = (str(binary), "agent", "-dev", f"-config-file={folder / 'config.json'}")
        return cls(Program("consul", "consul", command, environment), f"http://127.0.0.1:{http}")

    async def serving(self) -> str:
        """The address of its HTTP API, as soon as Consul accepts registrations there."""
        timeout = aiohttp.ClientTimeout(total=1)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not await self._has_leader(session):  # noqa: ASYNC110  another process has no event for us
                await asyncio.sleep(POLL_S)
        return self.address

    async def _has_leader(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.address}/v1/status/leader") as response:
                return response.status == 200 and bool(await response.json())
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False


def _config(ports: Mapping[str, int]) -> dict[str, object]:
    return {
        "node_name": "local",
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "disable_update_check": True,
        "log_level": "info",
        "ui": True,
        "ports": ports,
    }
