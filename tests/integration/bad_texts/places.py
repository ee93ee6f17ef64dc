"""Where hostile requests go, with neighbours that want their tokens there all the time, and what comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from tests.harness import Replica
from tests.hostile import details
from tests.language_bundles import tokenizer
from tests.texts import Caller, Written

LIMIT_S = 60
VOCAB = tokenizer().get_vocab_size()
# What neighbours ask for, all the time.
NEIGHBOURS: tuple[dict[str, Any], ...] = (
    {"model": "gpt", "prompt": "a neighbour", "max_new_tokens": 20, "seed": 1, "logprobs": 2},
    {"model": "gpt", "prompt": "三百", "max_new_tokens": 24, "temperature": 1.0, "seed": 2, "n": 2, "stop": ["q"]},
)


@dataclass
class Place:
    """Where hostile requests go, and neighbours that want their tokens there all the time."""

    caller: Caller
    known: list[list[Written]]
    rounds: list[int] = field(default_factory=lambda: [0] * len(NEIGHBOURS))  # that each neighbour has finished
    failed: list[BaseException] = field(default_factory=list)
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def with_neighbours(self) -> AsyncIterator["Place"]:
        """Each of them asks again when it has its text."""
        tasks = [asyncio.create_task(self._neighbour(index)) for index in range(len(NEIGHBOURS))]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def neighbours_are_well(self) -> None:
        """Returns when each of them has got a text that it asked for after now."""
        wanted = [rounds + 2 for rounds in self.rounds]
        async with asyncio.timeout(LIMIT_S), self._progress:
            await self._progress.wait_for(
                lambda: self.failed or all(now >= then for now, then in zip(self.rounds, wanted, strict=True))
            )
        assert self.failed == []

    async def _neighbour(self, index: int) -> None:
        try:
            while True:
                assert await self.caller.texts(**NEIGHBOURS[index]) == self.known[index]
                self.rounds[index] += 1
                async with self._progress:
                    self._progress.notify_all()
        except (AssertionError, grpc.aio.AioRpcError) as error:
            self.failed.append(error)
            async with self._progress:
                self._progress.notify_all()


@dataclass(frozen=True)
class Running:
    instance: Place
    gateway: Place
    replica: Replica


@dataclass(frozen=True)
class Refusal:
    """What a caller is told."""

    code: str
    reason: str
    field: str  # of ErrorInfo, and of BadRequest where there is one


def refusal(error: Any) -> Refusal:
    code, info, bad = details(error)
    assert (info.domain, info.metadata["executed"]) == ("trivium", "no")
    assert info.metadata["instance"] in ("language-1", "gateway")
    for violation in bad.field_violations:
        assert violation.field == info.metadata["field"]
    assert len(error.details() or "") > 10
    return Refusal(code, info.reason, info.metadata["field"])


async def refused(call: Awaitable[Any]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


def invalid(name: str) -> Refusal:
    return Refusal("INVALID_ARGUMENT", "INVALID_FIELD", name)


def too_large(name: str) -> Refusal:
    return Refusal("INVALID_ARGUMENT", "INPUT_TOO_LARGE", name)
