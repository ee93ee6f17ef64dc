"""Fleet: every endpoint that the gateway knows, from the watcher's sets to routes."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import structlog
from google.protobuf.message import DecodeError

from gateway import inquiry
from gateway.endpoint import ACCEPTING, Endpoint, EndpointState
from gateway.methods import Methods
from gateway.metrics import GatewayMetrics
from gateway.outliers import Outliers
from gateway.routes import Routes
from gateway.settings import CatalogSettings, OutlierSettings
from services.kit.background import forever, until_done
from services.kit.discovery import Instance
from services.kit.transport.upstream import CallFailed, Upstream

STATES: tuple[EndpointState, ...] = ("passing", "warning", "critical", "maintenance", "vanished")
STRENGTH = ("critical", "warning", "passing", "maintenance")  # which of two entries for one address counts: the later
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0

Connect = Callable[[str], Upstream]
Key = tuple[str, str]  # Consul service, address


class Fleet:
    """Keeps an endpoint for each instance, asks it what it serves, and publishes the routes after every change.

    What Consul says counts at once for maintenance and for failing checks, unless all of a service fail. An instance
    that Consul lost from sight is kept while its connection works, up to a grace period; so is a whole service. Calls
    in flight are never cut off: an endpoint's connection is closed when they have ended.

    Args:
        connect: opens the connection to an address.
        on_publish: called after each change of the routes.
    """

    def __init__(
        self,
        settings: CatalogSettings,
        outliers: OutlierSettings,
        methods: Methods,
        routes: Routes,
        metrics: GatewayMetrics,
        connect: Connect,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._methods, self._metrics = settings, methods, metrics
        self._connect, self._clock = connect, clock
        self._probe_timeout_s = outliers.probe_timeout_s
        self._endpoints: dict[Key, Endpoint] = {}
        self._leaving: list[Endpoint] = []  # let go, with calls in flight
        self._learning: dict[Endpoint, asyncio.Task[None]] = {}
        self._answered = False
        self._closing: set[asyncio.Task[None]] = set()
        self._changed_at = clock()
        self._log = structlog.get_logger()
        self.routes = routes
        self.outliers = Outliers(outliers, metrics, self._probe, self._peers)
        self.on_publish: Callable[[], None] = lambda: None
        metrics.discovery_age.set_function(lambda: self._clock() - self._changed_at)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Fleet"]:
        """Looks after its endpoints until the block ends; closes every connection then."""
        sweeping = asyncio.create_task(forever("sweep", self._sweep_later), name="sweep")
        try:
            yield self
        finally:
            tasks = [sweeping, *self._learning.values(), *self.outliers.tasks()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(endpoint.upstream.close() for endpoint in self.everyone()))

    def endpoints(self) -> list[Endpoint]:
        """Those that may get calls as far as Consul goes."""
        return [endpoint for endpoint in self._endpoints.values() if endpoint.accepting]

    def everyone(self) -> list[Endpoint]:
        """All whose connection is open, those that leave included."""
        return [*self._endpoints.values(), *self._leaving]

    def answered(self) -> None:
        """Discovery has told every service and instance at least once."""
        self._answered = True
        self._publish()

    def changed(self, service: str, instances: Sequence[Instance]) -> None:
        """The watcher's new set of one service."""
        self._changed_at = self._clock()
        listed = _by_address(instances)
        moved = {instance.id: instance.address for instance in listed.values()}
        for (of, address), endpoint in list(self._endpoints.items()):
            if of == service and address not in listed:
                self._vanish(endpoint, replaced=endpoint.id in moved)
        for instance in listed.values():
            self._update(instance)
        self._publish()

    async def learn_again(self, endpoint: Endpoint, timeout_s: float) -> None:
        """Returns when the endpoint has told what it serves from now on, or when the time is over."""
        if endpoint.gone:
            return
        self._start_learning(endpoint)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (task := self._learning.get(endpoint)) is not None:  # a newer one may take the place of ours
                    await asyncio.wait((task,))

    def _start_learning(self, endpoint: Endpoint) -> None:
        """Asks the endpoint what it serves, until it answers; the routes follow."""
        if running := self._learning.pop(endpoint, None):
            running.cancel()
        self._learning[endpoint] = asyncio.create_task(self._learn(endpoint), name=f"learn {endpoint.id}")

    def _update(self, instance: Instance) -> None:
        key = (instance.service, instance.address)
        endpoint = self._endpoints.get(key)
        if endpoint is not None and endpoint.id != instance.id:  # another process at the address of one that is gone
            self._let_go(endpoint)
            endpoint = None
        if endpoint is None:
            endpoint = self._endpoints[key] = Endpoint(instance, self._connect(instance.address))
            self._log.info("found", endpoint=endpoint.id, address=endpoint.address, service=endpoint.service)
        endpoint.state = instance.state
        digest = instance.meta.get("models_digest", "")
        if digest != endpoint.digest:
            endpoint.digest = digest
            self._start_learning(endpoint)

    def _vanish(self, endpoint: Endpoint, *, replaced: bool) -> None:
        if endpoint.state == "vanished":
            return
        if replaced or not (endpoint.accepting and endpoint.upstream.connected()):
            self._let_go(endpoint)
            return
        endpoint.state, endpoint.vanished_at = "vanished", self._clock()
        self._metrics.kept.labels(endpoint.service).inc()
        self._log.warning("kept_without_discovery", endpoint=endpoint.id, grace_s=self._settings.grace_s)

    def _let_go(self, endpoint: Endpoint) -> None:
        del self._endpoints[endpoint.service, endpoint.address]
        endpoint.gone = True
        self.outliers.forget(endpoint)
        if task := self._learning.pop(endpoint, None):
            task.cancel()
        self._leaving.append(endpoint)
        self._log.info("let_go", endpoint=endpoint.id, address=endpoint.address, calls=endpoint.in_flight)

    async def _learn(self, endpoint: Endpoint) -> None:
        try:
            with endpoint.inquired():
                await until_done(f"learn {endpoint.id}", partial(self._ask, endpoint))
                await self._describe(endpoint)
        finally:
            if self._learning.get(endpoint) is asyncio.current_task():
                del self._learning[endpoint]

    async def _ask(self, endpoint: Endpoint) -> None:
        """Returns when the endpoint has told its models, and the routes know them."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                models = await inquiry.models(endpoint.upstream, self._settings.timeout_s)
                break
            except DecodeError:
                self._log.error("models_unreadable", endpoint=endpoint.id)
            except CallFailed as failure:
                self.outliers.failed(endpoint, failure)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
        endpoint.models, endpoint.any_model = models, models is None
        self._publish()

    async def _describe(self, endpoint: Endpoint) -> None:
        """Fetches what describes services that nobody has described yet; calls pass without it too."""
        try:
            files = await inquiry.descriptors(endpoint.upstream, self._methods.knows, self._settings.timeout_s)
            self._methods.add(files.values())
            self._publish()
        except (CallFailed, DecodeError) as error:
            self._log.warning("reflection_failed", endpoint=endpoint.id, error=str(error))
        except Exception as error:
            self._log.error("reflection_failed", endpoint=endpoint.id, exc_info=error)

    async def _probe(self, endpoint: Endpoint) -> bool:
        """Whether it is healthy again; what it serves may have changed meanwhile."""
        with endpoint.inquired():
            if not await inquiry.serving(endpoint.upstream, self._probe_timeout_s):
                return False
        if endpoint not in self._learning:
            self._start_learning(endpoint)
        return True

    def _peers(self, endpoint: Endpoint) -> int:
        others = self.routes.endpoints(endpoint.service)
        return sum(1 for other in others if other is not endpoint and not other.ejected)

    def _publish(self) -> None:
        self._choose_last_resorts()
        self.routes.publish(self._endpoints.values(), answered=self._answered)
        found = Counter((endpoint.service, endpoint.state) for endpoint in self._endpoints.values())
        for service in self.routes.services:
            for state in STATES:
                self._metrics.endpoints.labels(service, state).set(found[service, state])
        self.on_publish()

    def _choose_last_resorts(self) -> bool:
        """Where the checks of a whole service fail, it is busy rather than ill: whose connection works goes on.

        Source: the panic threshold of Envoy's load balancer.

        Returns:
            Whether one became a last resort, or is none any more.
        """
        everyone = self._endpoints.values()
        served = {found.service for found in everyone if found.state in ACCEPTING and found.learned}
        changed = False
        for endpoint in everyone:
            failing = endpoint.state == "critical" and endpoint.service not in served
            last_resort = failing and endpoint.upstream.connected()
            changed = changed or last_resort != endpoint.last_resort
            endpoint.last_resort = last_resort
        return changed

    async def _sweep_later(self) -> None:
        await asyncio.sleep(self._settings.sweep_s)
        self.sweep()

    def sweep(self) -> None:
        """Lets go of vanished endpoints whose connection or time has run out, and closes those without calls.

        A last resort is one while its connection works.
        """
        now = self._clock()
        lost = [
            endpoint
            for endpoint in self._endpoints.values()
            if endpoint.state == "vanished"
            and (not endpoint.upstream.connected() or now - endpoint.vanished_at > self._settings.grace_s)
        ]
        for endpoint in lost:
            self._let_go(endpoint)
        if self._choose_last_resorts() or lost:
            self._publish()
        idle = [endpoint for endpoint in self._leaving if endpoint.in_flight == 0]
        self._leaving = [endpoint for endpoint in self._leaving if endpoint.in_flight]
        for endpoint in idle:
            self._spawn(endpoint.upstream.close())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _by_address(instances: Sequence[Instance]) -> dict[str, Instance]:
    """One entry an address: an instance that is registered twice is in maintenance if one entry says so."""
    listed: dict[str, Instance] = {}
    for instance in sorted(instances, key=lambda found: STRENGTH.index(found.state)):
        listed[instance.address] = instance
    return listed
