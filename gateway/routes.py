"""Routes: (Consul service or any, model, version) -> endpoints."""

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway import versions
from gateway.endpoint import Endpoint
from gateway.methods import ANY
from services.kit.errors import ModelNotFound, NoInstance, NotReady, TriviumError, Unloaded
from services.kit.model_name import MAX_LENGTH, ModelName, version_number
from trivium.common.v1 import model_pb2

MAX_CACHED = 4096
Key = tuple[str, str, int | str | None]  # Consul service, model and the version, the label or None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a model's calls go: at least one endpoint."""

    service: str  # Consul service, or ANY
    model: str  # "" is the service's default
    version: int | None  # None where the endpoints choose
    endpoints: tuple[Endpoint, ...]
    stateful: bool = False  # the model keeps state between the steps of a sequence
    writes: bool = False  # the model makes texts


@dataclass(frozen=True, slots=True)
class Pin:
    """One bundle, to the bit: what answers that have begun go on with."""

    model: str
    version: int
    digest: str  # ModelInfo's; "" where it was not told
    # ModelInfo.answers_digest where the last answer was computed; "" where it was not told. Another one is the same
    # bundle, computed with other bits.
    answers: str = field(default="", compare=False)

    @classmethod
    def of(cls, endpoint: Endpoint, model: str, version: int) -> "Pin":
        """The bundle that the endpoint has under that name and version."""
        for found in endpoint.models or ():
            if (found.name, found.version) == (model, version):
                return cls(model, version, found.digest, found.answers_digest)
        return cls(model, version, "")

    @classmethod
    def said(cls, endpoint: Endpoint, bundle: str) -> "Pin | None":
        """The bundle that the endpoint answers with, as "name:version"; None where it says nothing like it."""
        name, _, text = bundle.rpartition(":")
        version = version_number(text)
        return cls.of(endpoint, name, version) if name and version else None

    def on(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint has this very bundle, as far as is known."""
        return endpoint.any_model or not self.digest or Pin.of(endpoint, self.model, self.version) == self

    def alike(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint computes the bundle to the bit as where it was last computed, as far as is known."""
        return not self.answers or Pin.of(endpoint, self.model, self.version).answers == self.answers

    def computed(self, endpoint: Endpoint) -> "Pin":
        """The same, with the bits of the endpoint."""
        return dataclasses.replace(self, answers=Pin.of(endpoint, self.model, self.version).answers)

    def __str__(self) -> str:
        return f"{self.model}:{self.version}"


@dataclass(slots=True)
class Group:
    """The endpoints of one Consul service, or of all, that may get calls, by what they serve."""

    endpoints: list[Endpoint] = field(default_factory=list)
    any_model: list[Endpoint] = field(default_factory=list)
    versions: dict[str, dict[int, list[Endpoint]]] = field(default_factory=lambda: defaultdict(dict))
    labels: dict[tuple[str, str], dict[int, list[Endpoint]]] = field(default_factory=lambda: defaultdict(dict))
    unlearned: bool = False  # one has not told yet what it serves
    away: list[Endpoint] = field(default_factory=list)  # that may get no calls now

    @property
    def nameless(self) -> bool:
        """Whether there are no models to tell apart: then the field of the name may say anything."""
        return bool(self.any_model) and len(self.any_model) == len(self.endpoints)

    def add(self, endpoint: Endpoint) -> None:
        """One more endpoint, under every ready version and label that it has."""
        if not endpoint.learned:
            self.unlearned = self.unlearned or not endpoint.ejected
            return
        self.endpoints.append(endpoint)
        if endpoint.any_model:
            self.any_model.append(endpoint)
        for model in endpoint.models or ():
            if model.state == model_pb2.MODEL_STATE_READY:
                self.versions[model.name].setdefault(model.version, []).append(endpoint)
                for label in model.labels:
                    self.labels[model.name, label].setdefault(model.version, []).append(endpoint)

    def find(self, wanted: ModelName) -> tuple[int | None, list[Endpoint]]:
        """The version and its endpoints; none if nobody has it ready."""
        if not wanted.name:
            return None, self.endpoints
        by_label = self.labels.get((wanted.name, wanted.label), {}) if wanted.label else None
        found = self.versions.get(wanted.name, {}) if by_label is None else by_label
        version = wanted.version if wanted.version is not None else max(found, default=0)
        return version or None, [*found.get(version, ()), *self.any_model]

    def unloads(self, wanted: ModelName) -> bool:
        """Whether a model that nobody has ready was unloaded; not where it has failed, or who has it is away."""
        here, away = (
            {model.state for endpoint in endpoints for model in endpoint.models or () if _is(model, wanted)}
            for endpoints in (self.endpoints, self.away)
        )
        return here == {model_pb2.MODEL_STATE_UNLOADED} and away <= here and not self.unlearned

    def described(self, name: str, version: int | None) -> list[model_pb2.ModelInfo]:
        """What the endpoints say of that version."""
        endpoints = self.versions.get(name, {}).get(version or 0, ())
        models = [model for endpoint in endpoints for model in endpoint.models or ()]
        return [model for model in models if (model.name, model.version) == (name, version)]


class Routes:
    """Swapped as a whole at each change; remembers every service and model that was ever seen."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._typed: dict[tuple[str, str], Route] = {}
        self._named: dict[tuple[str, str], Route] = {}
        self._pinned: dict[tuple[str, Pin], Route] = {}
        self._seen: set[Key] = set()
        self.answered = False  # whether discovery has told everything at least once
        self.services: set[str] = set()  # Consul services ever seen
        self.stateful: set[str] = set()  # names of models that keep state in some version, ever seen
        self.writing: set[str] = set()  # names of models that make texts in some version, ever seen
        self.changed = asyncio.Event()  # set at the next change, when another one takes its place

    def publish(self, endpoints: Iterable[Endpoint], *, answered: bool) -> None:
        """The endpoints that count from now on."""
        groups: dict[str, Group] = defaultdict(Group)
        for endpoint in endpoints:
            self.services.add(endpoint.service)
            for service in (endpoint.service, *(() if endpoint.any_model else (ANY,))):
                if endpoint.accepting:
                    groups[service].add(endpoint)
                else:
                    groups[service].away.append(endpoint)
        self._groups, self._typed, self._named, self._pinned = dict(groups), {}, {}, {}
        self.answered = answered
        for service, group in groups.items():
            for name, found in group.versions.items():
                self._seen.add((service, name, None))
                self._seen.update((service, name, version) for version in found)
            self._seen.update((service, name, label) for name, label in group.labels)
            self.stateful.update(m.name for e in group.endpoints for m in e.models or () if m.stateful)
            self.writing.update(m.name for e in group.endpoints for m in e.models or () if _writes(m))
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def typed(self, service: str, model: str) -> Route:
        """The route of a typed call, whose field 1 is "name", "name:version", "name@label" or empty.

        Raises:
            InvalidField, ModelNotFound, NoInstance, NotReady
        """
        group = self._groups.get(service)
        if group is not None and group.nameless:
            model = ""
        route = self._typed.get((service, model))
        if route is None:
            route = self._find(service, ModelName.parse(model))
            _remember(self._typed, (service, model), route)
        return route

    def named(self, name: str, version: str) -> Route:
        """The route of an Open Inference Protocol call.

        Raises:
            InvalidField, ModelNotFound, NoInstance, NotReady
        """
        route = self._named.get((name, version))
        if route is None:
            wanted = versions.parse(name, version)
            if not name:
                raise versions.unknown(wanted)
            route = self._find(ANY, wanted)
            _remember(self._named, (name, version), route)
        return route

    def pinned(self, service: str, pin: Pin) -> Route:
        """The route of what goes on with one very bundle.

        Raises:
            NoInstance: nobody has it now.
        """
        route = self._pinned.get((service, pin))
        if route is None:
            found = self._find(service, ModelName(pin.model, version=pin.version))
            endpoints = tuple(endpoint for endpoint in found.endpoints if pin.on(endpoint))
            if not endpoints:
                raise NoInstance(f"the bundle that has begun as {pin} has no instance at the moment", model=str(pin))
            route = dataclasses.replace(found, endpoints=endpoints)
            if len(self._pinned) < MAX_CACHED:
                self._pinned[service, pin] = route
        return route

    def ready(self) -> bool:
        """Whether some instance takes calls."""
        return any(group.endpoints for group in self._groups.values())

    def services_of(self, name: str) -> set[str]:
        """Those that have, or had, a model of that name."""
        return {found for found, known, _ in self._seen if known == name and found != ANY}

    def endpoints(self, service: str) -> list[Endpoint]:
        """Those of a service that take calls."""
        group = self._groups.get(service)
        return group.endpoints if group else []

    def _find(self, service: str, wanted: ModelName) -> Route:
        group = self._groups.get(service, Group())
        version, endpoints = group.find(wanted)
        if not endpoints:
            raise self._missing(service, wanted, group)
        models = group.described(wanted.name, version)
        stateful, writes = any(model.stateful for model in models), any(map(_writes, models))
        return Route(service, wanted.name, version, tuple(endpoints), stateful, writes)

    def _missing(self, service: str, wanted: ModelName, group: Group) -> TriviumError:
        if not self.answered:
            return NotReady("the gateway has not heard yet which instances there are", model=str(wanted))
        named = (service, wanted.name, wanted.label if wanted.version is None else wanted.version)
        if named in self._seen:
            if group.unloads(wanted):
                return Unloaded(f"model {str(wanted)!r} is unloaded: LoadModel brings it back", model=str(wanted))
            return NoInstance(f"model {str(wanted)!r} has no instance at the moment", model=str(wanted))
        if group.unlearned:
            return NotReady("an instance has not told yet which models it serves", model=str(wanted))
        if not wanted.name:
            return NoInstance(f"service {service or 'trivium'} has no instance at the moment", service=service)
        other = next(
            (found for found, name, _ in self._seen if name == wanted.name and found not in (ANY, service)), ""
        )
        if service != ANY and other:
            return ModelNotFound(
                f"model {wanted.name!r} is one of service {other}, and this method asks {service}", model=wanted.name
            )
        return versions.unknown(wanted, {name for found, name, _ in self._seen if found == service})


def _is(model: model_pb2.ModelInfo, wanted: ModelName) -> bool:
    """Whether it has that name, and the version or label where one is wanted."""
    named = wanted.label in model.labels if wanted.label else wanted.version in (None, model.version)
    return model.name == wanted.name and named


def _writes(model: model_pb2.ModelInfo) -> bool:
    return model.max_tokens > 0


def _remember(cache: dict[tuple[str, str], Route], key: tuple[str, str], route: Route) -> None:
    if len(cache) < MAX_CACHED and all(len(part) <= MAX_LENGTH for part in key):
        cache[key] = route
