"""Generator: sends a workload from a process of its own, in a closed loop or at given instants."""

import asyncio
import contextlib
import itertools
import selectors
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc

from tests.bench.outcome import OK, WRONG, Outcome, Record, outcome
from tests.bench.workload import Workload

CHANNELS = 4  # connections that the calls are spread over
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # or all channels share one connection
]


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many calls in flight at any time: the next one is sent when one ends. Measures capacity."""

    concurrency: int
    warm_up_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Calls at these instants, in seconds from the start, however long the others take. Measures latency."""

    instants: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """One job for the generator."""

    address: str  # host:port
    workload: Workload
    shape: ClosedLoop | OpenLoop
    timeout_s: float = 30.0  # of each call


def generate(load: Load) -> Outcome:
    """Runs the load to its end; to be called in the generator's process.

    The loop waits with select(2) and not with epoll, whose timeouts are whole milliseconds: calls would be sent late.
    """
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(_generate(load))


async def _generate(load: Load) -> Outcome:
    async with _callers(load) as caller:
        await caller.connect()
        cpu_s = time.process_time()
        if isinstance(load.shape, ClosedLoop):
            begin, end = await _closed(load.shape, caller)
        else:
            begin, end = await _open(load.shape, caller)
        return outcome(caller.records, begin, end, time.process_time() - cpu_s, caller.examples)


async def _closed(shape: ClosedLoop, caller: "Caller") -> tuple[float, float]:
    """The window: from the first call after the warm-up to the last answer."""
    await _keep_calling(shape.concurrency, shape.warm_up_s, caller)
    begin = time.monotonic()
    await _keep_calling(shape.concurrency, shape.seconds, caller)
    return begin, time.monotonic()


async def _keep_calling(concurrency: int, seconds: float, caller: "Caller") -> None:
    """Returns when no call is in flight any more: a batch cut off by the end would count too much or nothing."""
    until = time.monotonic() + seconds

    async def one_caller() -> None:
        while (now := time.monotonic()) < until:
            await caller.call(now)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(one_caller())


async def _open(shape: OpenLoop, caller: "Caller") -> tuple[float, float]:
    """The window: from the start to the last answer."""
    begin = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for instant in shape.instants:
            await asyncio.sleep(max(0.0, begin + instant - time.monotonic()))
            tasks.create_task(caller.call(begin + instant))
    return begin, time.monotonic()


class Caller:
    """Sends the workload's requests in turn, over several connections, and judges the answers."""

    def __init__(self, load: Load, channels: list[grpc.aio.Channel]) -> None:
        self._workload, self._timeout_s, self._channels = load.workload, load.timeout_s, channels
        methods: list[Any] = [channel.unary_unary(load.workload.path) for channel in channels]
        self._methods = itertools.cycle(methods)
        self._indices = itertools.cycle(range(len(load.workload.requests)))
        self.records: list[Record] = []
        self.examples: dict[str, str] = {}  # the message of the first failure of each status

    async def connect(self) -> None:
        """Returns when every connection is up."""
        for channel in self._channels:
            async with asyncio.timeout(10):
                await channel.channel_ready()

    async def call(self, intended: float) -> None:
        """One call, recorded."""
        index, method = next(self._indices), next(self._methods)
        sent = time.monotonic()
        try:
            answer = await method(self._workload.requests[index], timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            status = error.code().name
            self.examples.setdefault(status, error.details() or "")
        else:
            status = OK if self._workload.is_right(index, answer) else WRONG
        self.records.append(Record(intended, sent, time.monotonic(), status))


@contextlib.asynccontextmanager
async def _callers(load: Load) -> AsyncIterator[Caller]:
    channels = [grpc.aio.insecure_channel(load.address, options=OPTIONS) for _ in range(CHANNELS)]
    try:
        yield Caller(load, channels)
    finally:
        closing: list[Coroutine[Any, Any, None]] = [channel.close() for channel in channels]
        await asyncio.gather(*closing)
