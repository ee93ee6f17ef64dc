"""Catalog: what the gateway answers itself, from all instances."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence

import structlog
from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from gateway import inquiry
from gateway.endpoint import Endpoint
from gateway.failures import explained
from gateway.fleet import Fleet
from gateway.settings import CatalogSettings
from gateway.statistics import Statistics
from inference import grpc_service_pb2 as oip
from services.kit.background import forever
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import LoadIncomplete, NoInstance, NotReady
from services.kit.transport.upstream import CallFailed
from trivium.common.v1 import model_pb2

READY = model_pb2.MODEL_STATE_READY
Outcome = CallFailed | None  # of one instance; None: it did what it was told


class Catalog:
    """Models, counters and readiness over all endpoints of a fleet."""

    def __init__(self, fleet: Fleet, settings: CatalogSettings) -> None:
        self._fleet, self._settings = fleet, settings
        self._statistics = Statistics()
        self._counting = asyncio.Lock()
        self._rounds = 0  # of asking every instance for its counters
        self._seen: set[tuple[str, int]] = set()  # versions that were ready at some time
        self._log = structlog.get_logger()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Catalog"]:
        """Looks at every instance's counters now and then, so that those of one that dies are recent."""
        task = asyncio.create_task(forever("poll counters", self._poll), name="poll counters")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def models(self, name: str = "") -> list[model_pb2.ModelInfo]:
        """Every version of every model, or of the one called so, each once; one that is ready somewhere is ready.

        Raises:
            NotReady: discovery has not answered yet.
        """
        self._must_know()
        found = merged(endpoint.models or () for endpoint in self._fleet.endpoints())
        return [model for model in found if not name or model.name == name]

    def ready(self) -> bool:
        """Whether some instance takes calls."""
        return self._fleet.routes.answered and self._fleet.routes.ready()

    def model_ready(self, name: str, version: int | None) -> bool:
        """Whether some instance has that model, or any version of it, ready."""
        return any(
            model.name == name and model.state == READY and version in (None, model.version)
            for endpoint in self._fleet.endpoints()
            for model in endpoint.models or ()
        )

    def health(self) -> dict[str, bool]:
        """`model/NAME` and `model/NAME/VERSION` -> SERVING, for every one that was ever ready."""
        now = {
            (model.name, model.version)
            for endpoint in self._fleet.endpoints()
            for model in endpoint.models or ()
            if model.state == READY
        }
        self._seen |= now
        names = {f"model/{name}/{version}": (name, version) in now for name, version in self._seen}
        ready = {name for name, _ in now}
        return names | {f"model/{name}": name in ready for name, _ in self._seen}

    async def statistics(self) -> dict[tuple[str, str], oip.ModelStatistics]:
        """The counters of all instances, dead ones included, by name and version."""
        wanted = self._rounds + 1  # one that begins now or later; answers of two at once might overtake each other
        async with self._counting:
            if self._rounds < wanted:
                self._rounds += 1
                asked = [endpoint for endpoint in self._fleet.everyone() if endpoint.models and not endpoint.ejected]
                await asyncio.gather(*map(self._count, asked))
        return self._statistics.sums()

    async def everywhere(self, path: str, request: bytes, name: str, call: Call, *, unload: bool = False) -> None:
        """Sends the request to every instance of the services that know the model, or of all if none does.

        Where one instance has unloaded it, another one that has nothing to unload is no failure.

        Raises:
            NotReady: discovery has not answered yet.
            NoInstance: there is nobody to ask, or only services that do not have the model.
            CallFailed: nobody did it, and all for the same reason.
            LoadIncomplete: some did it; names those that did not.
        """
        self._must_know()
        endpoints = self._fleet.endpoints()
        services = {endpoint.service for endpoint in endpoints if _knows(endpoint, name)}
        asked = [e for e in endpoints if not e.any_model and (not services or e.service in services)]
        if not asked:
            raise NoInstance(f"no instance is there to ask for model {name!r}", model=name)
        deadline = Deadline(min(call.deadline.at, Deadline.after(self._settings.load_timeout_s).at))
        found = await asyncio.gather(*(_tell(endpoint, path, request, deadline) for endpoint in asked))
        outcomes = list(zip(asked, found, strict=True))
        changed = [endpoint for endpoint, outcome in outcomes if not _unknown(outcome)]
        await asyncio.gather(*(self._fleet.learn_again(endpoint, self._settings.timeout_s) for endpoint in changed))
        away = self._fleet.routes.services_of(name) - {endpoint.service for endpoint in endpoints}
        if away and not changed:
            which = ", ".join(sorted(away))
            raise NoInstance(f"model {name!r} is one of {which}, which has no instance at the moment", model=name)
        judge(outcomes, name, unload=unload)

    def _must_know(self) -> None:
        if not self._fleet.routes.answered:
            raise NotReady("the gateway has not heard yet which instances there are")

    async def _count(self, endpoint: Endpoint) -> None:
        try:
            with endpoint.inquired():
                counted = await inquiry.statistics(endpoint.upstream, self._settings.timeout_s)
            self._statistics.update(f"{endpoint.id} {endpoint.address}", counted)
        except (CallFailed, DecodeError) as error:
            self._log.debug("statistics_failed", endpoint=endpoint.id, error=str(error))

    async def _poll(self) -> None:
        await asyncio.sleep(self._settings.poll_s)
        await self.statistics()


def merged(catalogues: Iterable[Sequence[model_pb2.ModelInfo]]) -> list[model_pb2.ModelInfo]:
    """Each name and version once, sorted; a ready entry wins over one that is not, and has every entry's labels."""
    best: dict[tuple[str, int], model_pb2.ModelInfo] = {}
    labels: dict[tuple[str, int], set[str]] = {}
    for models in catalogues:
        for model in models:
            key = (model.name, model.version)
            labels.setdefault(key, set()).update(model.labels)
            if key not in best or (model.state == READY and best[key].state != READY):
                best[key] = model
    return [_labelled(best[key], labels[key]) for key in sorted(best)]


def judge(outcomes: Sequence[tuple[Endpoint, Outcome]], name: str, *, unload: bool = False) -> None:
    """Whether what every instance answered is a success as a whole; see `Catalog.everywhere`."""
    knowing = {endpoint.service for endpoint, outcome in outcomes if not _unknown(outcome)}
    failed = [(e, outcome) for e, outcome in outcomes if outcome is not None and (not knowing or e.service in knowing)]
    if knowing and unload:
        failed = [(endpoint, outcome) for endpoint, outcome in failed if not _unknown(outcome)]
    if not failed:
        return
    if not knowing or (len(failed) == len(outcomes) and len({outcome.status.code for _, outcome in failed}) == 1):
        endpoint, outcome = failed[0]
        raise explained(outcome, endpoint)
    said = "; ".join(f"{endpoint.id}: {outcome.status.message}" for endpoint, outcome in failed)
    names = ", ".join(endpoint.id for endpoint, _ in failed)
    raise LoadIncomplete(
        f"{len(failed)} of {len(outcomes)} instances failed for model {name!r}: {said}", model=name, instances=names
    )


async def _tell(endpoint: Endpoint, path: str, request: bytes, deadline: Deadline) -> Outcome:
    try:
        with endpoint.inquired():
            await endpoint.upstream.unary(path, request, (), deadline)
    except CallFailed as failure:
        return failure
    return None


def _unknown(outcome: Outcome) -> bool:
    """The instance has never heard of the model, or has no such method."""
    return outcome is not None and outcome.status.code in (code_pb2.NOT_FOUND, code_pb2.UNIMPLEMENTED)


def _knows(endpoint: Endpoint, name: str) -> bool:
    return any(model.name == name for model in endpoint.models or ())


def _labelled(model: model_pb2.ModelInfo, labels: set[str]) -> model_pb2.ModelInfo:
    if labels == set(model.labels):
        return model
    copy = model_pb2.ModelInfo()
    copy.CopyFrom(model)
    copy.labels[:] = sorted(labels)
    return copy
