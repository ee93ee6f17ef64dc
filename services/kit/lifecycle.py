"""How a process starts, serves and leaves: `start`, Server, Drain."""

import asyncio
import contextlib
import dataclasses
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import structlog
from google.protobuf import descriptor_pool
from prometheus_client import CollectorRegistry, Counter

from services.kit import address, http, settings, telemetry
from services.kit.discovery import Registration
from services.kit.errors import SettingsError, StartupError
from services.kit.hooks import Admission, Deadlines, Errors, Identify, Observe
from services.kit.process import ProcessSettings, new_instance_name
from services.kit.transport.health import READINESS, STARTUP, Health
from services.kit.transport.method import Method, Servicer, merged, methods_of, unknown_method
from services.kit.transport.reflection import Reflection
from services.kit.transport.server import GrpcServer

LINGER_S = 1.0  # how long a leaving instance still accepts calls: until every watcher has seen it go
TELL_S = 1.0  # longest wait for Consul's answer when leaving
STOP_GRACE_S = 0.5  # for what did not end in the drain
WRONG_SETTINGS = 78  # the exit status, EX_CONFIG of sysexits.h
INSTANCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
S = TypeVar("S", bound=ProcessSettings)

Fallback = Callable[[str], Method | None]


def start(component: str, main: Callable[[S], Coroutine[Any, Any, None]], settings_class: type[S]) -> None:
    """Runs a component until it is told to stop: what `python -m services.vision` does.

    A StartupError ends it with a line that says what to do, and with status 1, or WRONG_SETTINGS where another start
    would fail in the same way.
    """
    try:
        loaded = _settings(component, settings_class)
        telemetry.configure_logs(loaded.log, component=component, instance=loaded.instance)
        asyncio.run(main(loaded))
    except StartupError as error:
        print(f"error: {component}: {error}\n  hint: {error.hint}", file=sys.stderr)
        sys.exit(WRONG_SETTINGS if isinstance(error, SettingsError) else 1)


def _settings(component: str, settings_class: type[S]) -> S:
    loaded = settings.load(settings_class, component)
    instance = loaded.instance or new_instance_name(component)
    if not INSTANCE_NAME.fullmatch(instance):
        raise SettingsError(
            f"INSTANCE is {instance!r}",
            hint="use at most 128 letters, digits, '.', '_' and '-', first no sign",
        )
    return dataclasses.replace(loaded, instance=instance)


class Server:
    """The listening side of a process: its gRPC port, its health, its reflection, its HTTP port.

    It serves as soon as it is open, and is NOT_SERVING until `ready(True)`.
    """

    def __init__(
        self,
        component: str,
        process: ProcessSettings,
        registry: CollectorRegistry,
        health: Health,
        live: Collection[str] = (),
    ) -> None:
        self.admission = Admission(process.limits.max_calls, process.limits.max_streams, live)
        self.component, self.instance = component, process.instance
        self.health, self.registry = health, registry
        self.address = self.health_address = ""
        self.http_port = 0
        self.reflection: Reflection
        self._services: list[str] = []
        self._hooks = (
            Observe(registry, process.log.calls),
            Errors(process.instance),
            Identify(process.instance),
            Deadlines(),
            self.admission,
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        component: str,
        process: ProcessSettings,
        registry: CollectorRegistry,
        servicers: Sequence[Servicer],
        *,
        health: Health | None = None,
        tables: Sequence[Mapping[str, Method]] = (),
        fallback: Fallback = lambda path: None,
        pool: descriptor_pool.DescriptorPool | None = None,
        names: Callable[[], Iterable[str]] = tuple,
    ) -> AsyncIterator["Server"]:
        """Listens until the block ends.

        Args:
            servicers: what answers, besides health and reflection.
            health: where a servicer already knows it.
            tables: further methods by path.
            fallback: the method of a path that is in none of them; None where there is none (the gateway's forwarding).
            pool: descriptors for reflection; the process's own by default.
            names: further service names for reflection to list.

        Raises:
            StartupError: a port is taken, or no address can be advertised.
        """
        host = process.advertised_host()
        live = {path for path, method in merged([*map(methods_of, servicers), *tables]).items() if method.live}
        server = cls(component, process, registry, health or Health(), live)
        server._services = [servicer.service.full_name for servicer in servicers]
        own = [*server._services, Health.service.full_name]
        server.reflection = Reflection(pool or descriptor_pool.Default(), lambda: [*own, *names()])
        probes = methods_of(server.health)
        table = merged([*map(methods_of, servicers), *tables, probes, server.reflection.methods()])
        async with contextlib.AsyncExitStack() as stack:
            port = await server._listen(stack, process, process.grpc_port, _lookup(table, fallback))
            health_port = port
            if process.health_port is not None:
                health_port = await server._listen(stack, process, process.health_port, _lookup(probes))
            server.address, server.health_address = address.join(host, port), address.join(host, health_port)
            server.http_port = await stack.enter_async_context(
                http.serve(process.host, process.http_port, registry, lambda: server.health.serving(READINESS))
            )
            structlog.get_logger().info("listening", address=server.address, http_port=server.http_port)
            yield server

    def ready(self, serving: bool = True) -> None:
        """Declares the process and every gRPC service of it as SERVING, or as NOT_SERVING."""
        if serving:
            self.health.set(STARTUP, True)
        for name in ("", READINESS, *self._services):
            self.health.set(name, serving)

    async def _listen(
        self, stack: contextlib.AsyncExitStack, process: ProcessSettings, port: int, lookup: Callable[[str], Method]
    ) -> int:
        server = GrpcServer(lookup, self._hooks, process.limits)
        await server.start(process.host, port)
        stack.push_async_callback(server.stop, STOP_GRACE_S)
        return server.port


class Drain:
    """Leaving without losing a call, as an async context manager: on the way out it ends what goes on around it.

    Maintenance on, health NOT_SERVING, a second in which calls are still accepted, Watch and reflection streams ended
    (an open one would hold up the server), then the accepted calls, for at most `drain_s` seconds in all, and out of
    Consul. What outlives the limit is counted, logged and cut off.

    Args:
        registration: None for a process that Consul does not know.
        hand_over: called after the second, to end streams that go on elsewhere.
    """

    def __init__(
        self,
        registration: Registration | None,
        server: Server,
        drain_s: float,
        hand_over: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._registration, self._server, self._drain_s, self._hand_over = registration, server, drain_s, hand_over
        self._log = structlog.get_logger()
        self._cut_off = Counter("trivium_drain_cut_off_calls", "Calls cut off when leaving.", registry=server.registry)

    async def __aenter__(self) -> "Drain":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        started = time.monotonic()
        server, admission = self._server, self._server.admission
        self._log.info("draining", calls=admission.in_flight, limit_s=self._drain_s)
        server.health.leave()
        await self._tell(Registration.leave)
        await asyncio.sleep(min(LINGER_S, self._drain_s))
        server.health.close()
        server.reflection.close()
        for hand_over in self._hand_over:
            hand_over()
        admission.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._drain_s - (time.monotonic() - started))):
                await admission.idle()
        if admission.in_flight:
            self._cut_off.inc(admission.in_flight)
            self._log.error("calls_cut_off", calls=admission.in_flight, limit_s=self._drain_s)
        await self._tell(Registration.deregister)
        self._log.info("drained", seconds=round(time.monotonic() - started, 3), cut_off=admission.in_flight)

    async def _tell(self, what: Callable[[Registration], Awaitable[None]]) -> None:
        """Tells Consul, which may hang: leaving does not wait for it."""
        if self._registration is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELL_S):
                    await what(self._registration)


async def shutdown_signal() -> None:
    """Returns at the first SIGTERM or SIGINT. A second SIGINT ends the process at once."""
    loop, received = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received.set)
    await received.wait()
    loop.remove_signal_handler(signal.SIGINT)


def _lookup(table: Mapping[str, Method], fallback: Fallback = lambda path: None) -> Callable[[str], Method]:
    def find(path: str) -> Method:
        return table.get(path) or fallback(path) or unknown_method(path)

    return find
