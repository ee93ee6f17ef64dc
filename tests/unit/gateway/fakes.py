"""Instances, connections and a gateway without a network."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field

from google.rpc import code_pb2, status_pb2
from prometheus_client import CollectorRegistry

from gateway.addressing import MODEL_SERVICE
from gateway.attempts import Dispatch
from gateway.endpoint import Endpoint
from gateway.fleet import Fleet
from gateway.forwarder import Forwarder
from gateway.methods import MODEL_INFER, Methods
from gateway.metrics import GatewayMetrics
from gateway.resume.kept import KeptSequences
from gateway.resume.oip_sequence import SequenceInfer
from gateway.resume.oip_text import TextInfer
from gateway.retries import Budget, Retries
from gateway.routes import Routes
from gateway.settings import CatalogSettings, OutlierSettings, ResumeSettings, RetrySettings
from services.kit.call import Metadata
from services.kit.deadline import Deadline
from services.kit.discovery import Instance, InstanceState
from services.kit.errors import TriviumError, to_status
from services.kit.sequences import SequenceLimits
from services.kit.transport.upstream import CallFailed, Reply, Upstream
from trivium.common.v1 import model_pb2
from trivium.models.v1 import models_pb2

VISION = "trivium-vision-v1"
CLASSIFY = "/trivium.vision.v1.VisionService/Classify"
STREAM = "/trivium.vision.v1.VisionService/ClassifyStream"

Answer = Callable[[str, bytes], bytes]  # path, request -> response; raises CallFailed


def model(
    name: str = "digits",
    version: int = 1,
    *,
    ready: bool = True,
    labels: tuple[str, ...] = (),
    digest: str = "",
    answers: str = "",
    stateful: bool = False,
    max_tokens: int = 0,
) -> model_pb2.ModelInfo:
    """One version of a model."""
    return model_pb2.ModelInfo(
        name=name,
        version=version,
        service="vision",
        state=model_pb2.MODEL_STATE_READY if ready else model_pb2.MODEL_STATE_UNLOADED,
        labels=labels,
        digest=digest,
        answers_digest=answers,
        stateful=stateful,
        max_tokens=max_tokens,
    )


def refused(error: TriviumError) -> CallFailed:
    """The failure of a call that an instance refused or failed with `error`."""
    status = to_status(error)
    return CallFailed(status, (("trivium-instance", "v"),), error.metadata.get("executed", error.executed))


def broken(code: int = code_pb2.UNAVAILABLE, *, sent: bool = True) -> CallFailed:
    """The failure of a call whose connection broke, after or before the request was written."""
    message = "connection reset" if sent else "failed to connect to all addresses"
    return CallFailed(status_pb2.Status(code=code, message=message), (), "unknown" if sent else "no")


@dataclass(frozen=True)
class Seen:
    """What an instance got."""

    path: str
    request: bytes
    metadata: Metadata
    deadline: Deadline


class FakeUpstream(Upstream):
    """A connection to an instance that answers what the test says, with its own name in the trailers."""

    def __init__(self, name: str = "v", answer: Answer | None = None) -> None:
        self.target = self.name = name
        self.answer: Answer = answer or (lambda path, request: b"answer of " + name.encode())
        self.models: tuple[model_pb2.ModelInfo, ...] = (model(),)
        self.on_list: Callable[[], None] = lambda: None  # called when it is asked for its models
        self.seen: list[Seen] = []
        self.opened: list[Seen] = []  # streams, without what came on them
        self.initial: Metadata = ()  # of streams
        self.streamed: list[str] = []  # ids of what came on streams
        self.up, self.closed = True, False
        self.reached = asyncio.Event()
        self.hanging: asyncio.Event | None = None  # set: calls wait for it
        self.cancelled = 0
        self.follow: Callable[[AsyncIterator[bytes]], AsyncGenerator[bytes, None]] | None = None

    async def unary(self, path: str, request: bytes, metadata: Metadata, deadline: Deadline) -> Reply:
        """One answer."""
        if path == f"{MODEL_SERVICE}ListModels":
            self.on_list()
            await asyncio.sleep(0)
            return Reply(models_pb2.ListModelsResponse(models=self.models).SerializeToString(), (), ())
        self.seen.append(Seen(path, request, metadata, deadline))
        self.reached.set()
        if self.hanging is not None:
            try:
                await self.hanging.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        answer = self.answer(path, request)
        return Reply(answer, (("first", self.name),), (("trivium-instance", self.name), ("grpc-internal", "x")))

    async def stream(
        self,
        path: str,
        requests: AsyncIterator[bytes],
        metadata: Metadata,
        deadline: Deadline,
        trailers: list[tuple[str, str | bytes]],
        initial: list[tuple[str, str | bytes]] | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """An answer to each message, or what `follow` makes of them."""
        if "ServerReflection" in path:
            raise CallFailed(status_pb2.Status(code=code_pb2.UNIMPLEMENTED), (), "no")
        self.opened.append(Seen(path, b"", metadata, deadline))
        if self.follow is not None:
            async for answer in self.follow(requests):
                if initial is not None:
                    initial.extend(self.initial)
                    initial = None
                yield answer
        else:
            async for request in requests:
                self.seen.append(Seen(path, request, metadata, deadline))
                yield self.answer(path, request)
        trailers.append(("trivium-instance", self.name))

    def connected(self) -> bool:
        """As the test says."""
        return self.up

    async def close(self) -> None:
        """Remembers that it was closed."""
        self.closed = True


def instance(name: str, state: InstanceState = "passing", *, digest: str = "a", address: str = "") -> Instance:
    """An instance as the watcher reports it."""
    return Instance(VISION, name, address or f"{name}:1", {"models_digest": digest}, state)


def endpoint(
    name: str = "v",
    *models: model_pb2.ModelInfo,
    state: InstanceState = "passing",
    service: str = VISION,
    answer: Answer | None = None,
) -> Endpoint:
    """An endpoint that serves the models; the ready "digits" if none is given."""
    made = Endpoint(Instance(service, name, f"{name}:1", {}, state), FakeUpstream(name, answer))
    made.models = models or (model(),)
    return made


def fake(of: Endpoint) -> FakeUpstream:
    """The fake connection of an endpoint."""
    assert isinstance(of.upstream, FakeUpstream)
    return of.upstream


@dataclass
class Clock:
    """A clock that stands still until the test moves it."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Gateway:
    """The forwarding part of a gateway with the endpoints given."""

    endpoints: list[Endpoint]
    retry: RetrySettings = field(default_factory=RetrySettings)
    resume: ResumeSettings = field(default_factory=ResumeSettings)

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = GatewayMetrics(self.registry)
        self.methods, self.routes, self.clock = Methods.shipped(), Routes(), Clock()
        self.made: dict[str, FakeUpstream] = {}
        self.fleet = Fleet(
            CatalogSettings(), OutlierSettings(), self.methods, self.routes, self.metrics, self._connect, self.clock
        )
        retries = Retries(self.retry, Budget(self.retry, self.clock), self.metrics)
        self.dispatch = Dispatch(retries, self.fleet.outliers, self.metrics, random.Random(1))
        self.forwarder = Forwarder(self.methods, self.routes, self.dispatch)
        self.sequences = KeptSequences(SequenceLimits(), self.clock)
        forward = self.forwarder.method(MODEL_INFER).handler
        self.infer = SequenceInfer(self.routes, self.dispatch, self.resume, self.sequences, forward)
        self.texts = TextInfer(self.routes, self.dispatch, self.resume)
        if self.endpoints:
            self.routes.publish(self.endpoints, answered=True)

    def _connect(self, address: str) -> FakeUpstream:
        return self.made.setdefault(address, FakeUpstream(address.partition(":")[0]))

    async def settle(self) -> None:
        """Waits until every instance has told what it serves."""
        while self.fleet._learning:
            await asyncio.gather(*self.fleet._learning.values())

    async def close(self) -> None:
        """Ends the probes."""
        tasks = list(self.fleet.outliers.tasks())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
