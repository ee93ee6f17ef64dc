"""Launcher: one run of the suite, from the first process to the last."""

import asyncio
import os
import signal
import time
from collections.abc import Coroutine
from dataclasses import dataclass

from deploy.local import demo
from deploy.local.consul import DevConsul, find_consul, version_of
from deploy.local.control import Refused, listening
from deploy.local.devices import devices
from deploy.local.logs import kept_bounded
from deploy.local.ports import check_gateway_ports
from deploy.local.progress import Progress
from deploy.local.readiness import follow_services, gateway_serving, until_known
from deploy.local.run_dir import RunDir
from deploy.local.settings import GatewayAddress, drain_s
from deploy.local.suite import GATEWAY, gateway_program, service_names, service_program
from deploy.local.supervisor import Supervisor

# Seconds after the order to stop at which what still runs is killed: first the gateway, then services, then Consul. All
# has ended within 10 s, with time to spare for a busy machine.
STOP_GATEWAY_S, STOP_SERVICES_S, STOP_CONSUL_S = 5.5, 7.5, 8.0
# One Ctrl-C may come twice, from the terminal and from a program in between that passes it on.
SAME_INTERRUPT_S = 0.1
# Besides its drain, a process says goodbye for a second and then closes its connections.
AFTER_DRAIN_S = 4.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    replicas: int = 1  # instances of each service
    cpu: bool = False  # whether services keep off the GPU


class Launcher:
    """Starts a suite, keeps it up and stops it."""

    def __init__(self, options: Options, address: GatewayAddress, run_dir: RunDir, progress: Progress) -> None:
        self._options, self._address, self._run_dir, self._progress = options, address, run_dir, progress
        self._supervisor = Supervisor(run_dir, progress)
        self._asked = asyncio.Event()  # to stop
        self._interrupted_at = 0.0

    async def run(self) -> None:
        """Returns when it was told to stop by a signal, and everything has ended.

        Raises:
            StartupError: the suite cannot be started here; says why.
        """
        check_gateway_ports(self._address)
        self._listen_to_signals()
        try:
            await self._until_asked(self._serve())
        finally:
            await self._stop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # nothing is left to stop

    def _listen_to_signals(self) -> None:
        """Not through the loop's own handlers: it takes them away when it closes, and one more Ctrl-C would then end
        this process as a failure."""
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(self._interrupted))
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(self._asked.set))
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(self._asked.set))

    def _interrupted(self) -> None:
        now = time.monotonic()
        if not self._asked.is_set():
            self._asked.set()
            self._interrupted_at = now
        elif now - self._interrupted_at > SAME_INTERRUPT_S:
            self._progress.problem("interrupted again: killing everything")
            self._supervisor.kill_all()

    async def _until_asked(self, work: Coroutine[None, None, None]) -> None:
        """Runs `work` until it fails or a signal comes."""
        tasks = {asyncio.create_task(work), asyncio.create_task(self._asked.wait())}
        done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for task in done:
            task.result()

    async def _serve(self) -> None:
        self._progress.step(f"run directory {self._run_dir.path}")
        binary = await find_consul(self._progress)
        consul = DevConsul.create(binary, await version_of(binary), self._run_dir.path / "consul", os.environ)
        self._progress.step(f"starting Consul ({binary})")
        first = self._supervisor.keep(consul.program, consul.serving)
        self._start_components(consul.address)
        await first.first_ready()
        async with (
            listening(self._run_dir.path, self._stop_one),
            follow_services(self._supervisor, consul.address),
            kept_bounded(self._run_dir.logs),
        ):
            await self._announce(consul.address)
            await asyncio.Event().wait()  # until this is cancelled

    def _start_components(self, consul_address: str) -> None:
        services = [
            service_program(service, number, consul_address, os.environ, cpu=self._options.cpu)
            for service in service_names()
            for number in range(1, self._options.replicas + 1)
        ]
        gateway = gateway_program(consul_address, os.environ, self._address)
        self._progress.step(f"starting {', '.join(program.instance for program in (*services, gateway))}")
        for program in services:
            self._supervisor.keep(program)
        self._supervisor.keep(gateway, lambda: gateway_serving(self._address.grpc))

    async def _announce(self, consul_address: str) -> None:
        """Says when all of it is up, and shows that it works."""
        for keeper in list(self._supervisor.keepers.values()):
            await keeper.first_ready()
        await until_known(self._address.grpc, service_names())
        self._progress.ready(
            (
                ("gRPC", self._address.grpc),
                ("HTTP", f"http://{self._address.http}"),
                ("Consul", f"{consul_address}/ui"),
                ("run directory", str(self._run_dir.path)),
            )
        )
        await self._say_devices()
        await asyncio.to_thread(demo.show, self._address.grpc, self._progress.note)

    async def _say_devices(self) -> None:
        """One line that names, for each service, the device that its instances say they have."""
        up = [(keeper.program.component, keeper.address) for keeper in self._supervisor.keepers.values()]
        services = [(component, address) for component, address in up if component in service_names() and address]
        said = await devices(services)
        self._progress.note(f"  models run on: {', '.join(f'{service} {device}' for service, device in said.items())}")

    async def _stop_one(self, instance: str) -> str:
        """What `trivium stop` asks for."""
        keeper = self._supervisor.keepers.get(instance)
        if keeper is None:
            raise Refused(f"no instance is called {instance}; there are {', '.join(sorted(self._supervisor.keepers))}")
        component = keeper.program.component
        if component == "consul":
            raise Refused("everything in this run needs Consul: stop the run itself (Ctrl-C, or `make stop`)")
        ended = await self._supervisor.stop(instance, drain_s(component, keeper.program.environment) + AFTER_DRAIN_S)
        return f"{instance} has ended" if ended else f"{instance} did not end in time and was killed"

    async def _stop(self) -> None:
        if not self._supervisor.keepers:
            return
        self._progress.step("stopping; Ctrl-C once more kills everything at once")
        await self._supervisor.stop_all(
            (
                (lambda program: program.component == GATEWAY, STOP_GATEWAY_S),
                (lambda program: program.component != "consul", STOP_SERVICES_S),
                (lambda program: True, STOP_CONSUL_S),
            )
        )
        self._progress.step("everything has ended")
