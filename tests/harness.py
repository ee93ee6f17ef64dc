"""Suite: a real Consul and real processes, each started, paused, killed and watched by a test.

async with Suite.open(tmp_path) as suite:
    await suite.start("vision", "vision-1", BUNDLES_DIR=bundles)
    gateway = await suite.start_gateway()
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import psutil
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.child import Child, Program
from deploy.local.ports import free_ports
from services.kit.discovery import ConsulSettings, Instance, Watcher

ROOT = Path(__file__).resolve().parents[1]
SERVICES = {path.parent.name for path in ROOT.glob("services/*/__main__.py")}
START_S = 30  # longest wait for a process to be ready
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


_given: set[int] = set()


def free_port() -> int:
    """A port on which nothing listens, and that was not given before: several are chosen before the first is used."""
    while (port := free_ports(1)[0]) in _given:
        pass
    _given.add(port)
    return port


def still_running(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that run on after so long. What has ended and was not yet collected has ended: by whom an orphan is
    collected, and when, is the machine's affair."""
    end = time.monotonic() + timeout_s
    while (running := list(filter(_runs, processes))) and time.monotonic() < end:
        time.sleep(0.02)  # whoever is not their parent is told nothing
    return running


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def error_info(error: grpc.aio.AioRpcError) -> ErrorInfo:
    """The ErrorInfo of a failed call; an empty one where it has none."""
    found = ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status = status_pb2.Status.FromString(value)
            any(detail.Unpack(found) for detail in status.details)
    return found


@dataclass(eq=False)
class Replica:
    """One running process of a component."""

    component: str
    name: str
    child: Child
    log: Path
    address: str  # host:port of its gRPC port
    http_address: str

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()

    def send(self, number: signal.Signals) -> None:
        """Any other signal."""
        os.kill(self.child.pid, number)

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.child.terminate()
        return await self.child.wait()

    async def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample that it exposes, by name and sorted labels."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.http_address}/metrics") as response:
            text = await response.text()
        families = text_string_to_metric_families(text)
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name which have these labels."""
        wanted = set(labels.items())
        return sum(
            value for (found, has), value in (await self.metrics()).items() if found == name and wanted <= set(has)
        )


class Consul:
    """A Consul agent of the test's own, on ports of its own.

    It leads at once and what it knows ends with it, as that of `make run`, unless it is durable.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder, self.durable = folder, durable
        self.ports = {name: free_port() for name in ("http", "server", "serf_lan", "serf_wan")}
        self._child: Child | None = None

    @property
    def address(self) -> str:
        """URL of its HTTP API."""
        return f"http://127.0.0.1:{self.ports['http']}"

    async def start(self) -> None:
        """Starts it, or starts it again, with the data it had if it is durable."""
        found = await asyncio.to_thread(
            subprocess.run, [ROOT / "deploy/local/get_consul", ROOT / ".cache/consul"], capture_output=True, check=True
        )
        ports = [f"-{name.replace('_', '-')}-port={port}" for name, port in self.ports.items()]
        quiet = ["-dns-port=-1", "-grpc-port=-1", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn"]
        durable = ["-server", "-bootstrap-expect=1", f"-data-dir={self.folder / 'consul'}"]
        config = ["-node=test", "-hcl=performance { raft_multiplier = 1 }", "-hcl=disable_update_check = true"]
        mode = durable if self.durable else ["-dev"]
        command = (found.stdout.decode().strip(), "agent", *mode, *ports, *quiet, *config)
        self._child = await Child.spawn(Program("consul", "consul", command, os.environ), self.folder / "consul.log")

    async def kill(self) -> None:
        """SIGKILL."""
        if self._child is not None:
            self._child.kill()
            await self._child.wait()


class Suite:
    """Consul, and whatever a test starts beside it. Ends all of it when it is closed."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder, self.consul = folder, Consul(folder, durable=durable)
        self.instances: dict[str, tuple[Instance, ...]] = {}  # what Consul says now, by Consul service
        self._changed = asyncio.Condition()
        self.replicas: list[Replica] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, folder: Path, *, durable: bool = False) -> AsyncIterator["Suite"]:
        """With a running Consul, durable or not, and nothing else."""
        suite = cls(folder, durable=durable)
        async with suite.running():
            yield suite

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Consul, until the block ends and everything with it."""
        await self.consul.start()
        try:
            settings = ConsulSettings(address=self.consul.address)
            async with Watcher.open(settings, CollectorRegistry(), self._on_change) as watcher:
                async with asyncio.timeout(START_S):
                    await watcher.answered.wait()
                yield
        finally:
            for replica in self.replicas:
                replica.kill()
                await replica.child.wait()
            await self.consul.kill()

    async def start(self, component: str, name: str, module: str = "", **settings: object) -> Replica:
        """A service, ready and registered. Settings are keys without their prefix: `BATCHER__MAX_BATCH=4`."""
        replica = await self.launch(component, name, module, GRPC_PORT=free_port(), **settings)
        await self._while_alive(replica, asyncio.ensure_future(self.until(lambda: self._registered(replica))))
        await self._while_alive(replica, asyncio.ensure_future(serving(replica.address)))
        return replica

    async def start_gateway(self, name: str = "gateway", ready: str = "readiness", **settings: object) -> Replica:
        """A gateway whose health name `ready` is SERVING."""
        replica = await self.launch("gateway", name, "gateway", GRPC_PORT=free_port(), **settings)
        await self._while_alive(replica, asyncio.ensure_future(serving(replica.address, ready)))
        return replica

    async def launch(self, component: str, name: str, module: str = "", **settings: object) -> Replica:
        """A process that has just been started; its address is known if GRPC_PORT is among the settings."""
        http_port = free_port()
        values = {
            "INSTANCE": name,
            "HTTP_PORT": http_port,
            "CONSUL__ADDRESS": self.consul.address,
            "LOG__FORMAT": "json",
            **({"ENGINE__DEVICE": "cpu"} if component in SERVICES else {}),
            **settings,
        }
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TRIVIUM_")}
        environment = clean | {f"TRIVIUM_{component.upper()}__{key}": str(value) for key, value in values.items()}
        command = (sys.executable, "-m", module or f"services.{component}")
        log = self.folder / f"{name}.log"
        child = await Child.spawn(Program(component, name, command, environment), log)
        address = f"127.0.0.1:{values.get('GRPC_PORT', 0)}"
        replica = Replica(component, name, child, log, address, f"127.0.0.1:{http_port}")
        self.replicas.append(replica)
        return replica

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when `holds` is true of `instances`; asked at every change in Consul."""
        async with asyncio.timeout(START_S), self._changed:
            await self._changed.wait_for(holds)

    async def _while_alive(self, replica: Replica, ready: "asyncio.Future[Any]") -> None:
        """Waits for `ready`, or fails with the process's last words."""
        ended = asyncio.ensure_future(replica.child.wait())
        await asyncio.wait((ready, ended), timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        for future in (ready, ended):
            future.cancel()
        if not ready.done() or ready.cancelled():
            raise AssertionError(f"{replica.name} did not get ready:\n" + "\n".join(replica.child.last_lines(20)))
        await ready

    def _registered(self, replica: Replica) -> bool:
        found = [instance for instances in self.instances.values() for instance in instances]
        return any(instance.address == replica.address and instance.state == "passing" for instance in found)

    def _on_change(self, service: str, instances: tuple[Instance, ...]) -> None:
        self.instances[service] = instances

        async def tell() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._telling = asyncio.ensure_future(tell())


async def serving(address: str, name: str = "readiness") -> None:
    """Returns when the process at `address` says that `name` is SERVING, as soon as it does."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        request = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        async for answer in watch(request, wait_for_ready=True):
            if health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING:
                return


@dataclass
class Traffic:
    """Calls at a steady rate, whatever becomes of them; every one is counted, and its answer looked at."""

    call: Callable[[], Any]  # one call; raises if it fails or its answer is wrong
    rate_per_s: float
    sent: int = 0
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def ended(self) -> int:
        """Calls that were answered or failed."""
        return self.answered + len(self.failures)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Traffic"]:
        """Sends until the block ends, then waits for every answer that is still out."""
        sender = asyncio.create_task(self._send())
        try:
            yield self
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            await asyncio.gather(*self._tasks)

    async def more(self, calls: int) -> None:
        """Returns when that many further calls have ended."""
        wanted = self.ended + calls
        async with self._progress:
            await self._progress.wait_for(lambda: self.ended >= wanted)

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            task = asyncio.create_task(self._one())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due += 1 / self.rate_per_s
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _one(self) -> None:
        self.sent += 1
        try:
            await self.call()
            self.answered += 1
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"{error.code().name} {error.details()} {error_info(error)}")
        except AssertionError as error:
            self.failures.append(f"wrong answer: {error}")
        async with self._progress:
            self._progress.notify_all()
