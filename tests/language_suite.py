"""A gateway and two instances of the language service in processes of their own, and what their tests share."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.harness import OPTIONS, Replica, Suite, serving
from tests.texts import Caller, Written, rest
from trivium.language.v1 import language_pb2 as pb

NEIGHBOURS = 30
LIMIT_S = 60  # of a wait: longer ones hang
# Requests of all kinds, as their fields; what "recite" says begins with the token whose number its prompt is long.
WISHES: dict[str, dict[str, Any]] = {
    "greedy": {"model": "gpt", "prompt": "def f(x):", "max_new_tokens": 40, "seed": 1, "logprobs": 3},
    "drawn": {"prompt": "三百", "temperature": 1.1, "seed": 7, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "logprobs": 0},
    "penalties": {"prompt": "the the", "temperature": 1.0, "seed": 8, "repetition_penalty": 1.3, "logprobs": 2}
    | {"presence_penalty": 0.5, "frequency_penalty": 0.4},
    "biases": {"prompt": "a", "temperature": 1.0, "seed": 9, "logit_bias": {65: 4.0, 66: -100.0, 77: 2.5}},
    "stop strings": {"model": "recite", "prompt": "abc", "seed": 1, "stop": ["zz", "he e", "e en"]},
    "stop tokens": {"prompt": "b", "temperature": 1.2, "seed": 3, "stop_token_ids": [*range(0, 256, 16)]},
    "three": {"prompt": "c", "temperature": 0.9, "seed": 2**64 - 1, "n": 3, "max_new_tokens": 30, "logprobs": 1},
    "tokens": {"prompt_token_ids": [5, 6, 7, 255], "max_new_tokens": 20, "seed": 0, "temperature": 0.5},
    "a translation": {"model": "translate", "prompt": "25 Nov 2026", "temperature": 0.7, "seed": 5, "logprobs": 20},
    "no end": {"model": "recite", "prompt": "ab", "seed": 1, "ignore_eos": True, "max_new_tokens": 50},
    "a long prompt": {"prompt": "三百 and more. " * 10, "max_new_tokens": 12, "seed": 1, "logprobs": 1},
}


@dataclass(frozen=True)
class Running:
    """A gateway and two instances of the same bundles, with a caller of each. The first sends each token at once."""

    suite: Suite
    folder: Path
    replicas: Sequence[Replica]
    gateway_replica: Replica
    one: Caller
    two: Caller
    gateway: Caller

    def at(self, where: str) -> Caller:
        """One of them by its name."""
        found: Caller = getattr(self, where)
        return found


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def running(language_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with Suite.open(tmp_path_factory.mktemp("language")) as suite, contextlib.AsyncExitStack() as stack:
        gateway, *replicas = await asyncio.gather(
            suite.start_gateway(),
            start(suite, "language-1", language_folder, GENERATION__STREAM_INTERVAL_S=0),
            start(suite, "language-2", language_folder),
        )
        for name in ("gpt", "translate", "novel", "recite", "scripts"):
            await serving(gateway.address, f"model/{name}")
        addresses = [replica.address for replica in (*replicas, gateway)]
        one, two, both = [await stack.enter_async_context(calling(address)) for address in addresses]
        yield Running(suite, language_folder, replicas, gateway, one, two, both)


async def start(suite: Suite, name: str, folder: Path, **settings: Any) -> Replica:
    """One thread is enough for such models."""
    engine: dict[str, Any] = {"ENGINE__THREADS": 1, "DEFAULT_MODEL": "gpt"}
    return await suite.start("language", name, BUNDLES_DIR=folder, **engine, **settings)


@contextlib.asynccontextmanager
async def calling(address: str) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        yield Caller(channel)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def alone(running: Running) -> dict[str, list[Written]]:
    """What each of the wishes gets when nobody else asks."""
    return {name: await running.one.texts(**wish) for name, wish in WISHES.items()}


@contextlib.asynccontextmanager
async def beside(caller: Caller, alone: dict[str, list[Written]]) -> AsyncIterator[None]:
    """Thirty others keep the place busy with wishes of all kinds, and get their bits."""
    names, over = itertools.cycle(WISHES), asyncio.Event()

    async def neighbour(name: str) -> None:
        while not over.is_set():
            assert await caller.texts(**WISHES[name]) == alone[name], name

    async with asyncio.TaskGroup() as group:
        for _ in range(NEIGHBOURS):
            group.create_task(neighbour(next(names)))
        yield
        over.set()


LONG: dict[str, Any] = {"model": "novel", "ignore_eos": True, "temperature": 1.0}


def long_text(seed: int, count: int = 400, **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(**LONG, prompt=f"text {seed}", seed=seed, max_new_tokens=count, **fields)


async def counted(caller: Replica, name: str, **labels: str) -> float:
    return await caller.metric(f"trivium_generation_{name}", model="novel", **labels)


async def becomes(replica: Replica, wanted: float, name: str, **labels: str) -> None:
    """Returns when the metric has the value."""
    async with asyncio.timeout(LIMIT_S):
        while await counted(replica, name, **labels) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # the process tells of it by nothing else


async def reaches(replica: Replica, wanted: float, *names: str) -> None:
    """Returns when these metrics have at least that value together."""
    async with asyncio.timeout(LIMIT_S):
        while sum([await counted(replica, name) for name in names]) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # the process tells of it by nothing else


@contextlib.asynccontextmanager
async def being_written(caller: Caller, count: int, tokens: int = 400) -> AsyncIterator[list[Any]]:
    """So many long texts, each of which has its first token."""
    calls = [caller.call(long_text(seed, tokens)) for seed in range(count)]
    for call in calls:
        assert pb.GenerateResponse.FromString(await call.read()).token_ids
    try:
        yield calls
    finally:
        for call in calls:
            call.cancel()


@contextlib.asynccontextmanager
async def always_written(caller: Caller, count: int) -> AsyncIterator[None]:
    """So many long texts, for each of which another one is asked for when it ends."""
    begun = asyncio.Semaphore(0)

    async def again(seed: int) -> None:
        for turn in itertools.count():
            call = caller.call(long_text(seed, 300 + 30 * seed))  # they do not end together
            await call.read()
            if not turn:
                begun.release()
            await rest(call)

    tasks = [asyncio.create_task(again(seed)) for seed in range(count)]
    try:
        for _ in tasks:
            await begun.acquire()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def wish_of(request: pb.GenerateRequest) -> dict[str, Any]:
    return {field.name: value for field, value in request.ListFields()}


def caller_address(running: Running, where: str) -> str:
    return (running.replicas[0] if where == "one" else running.gateway_replica).address
