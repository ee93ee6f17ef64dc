"""Where hostile requests go, with neighbours that want their bits there all the time, and what comes back."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest

from services.kit.inference.bundle import Array, Bundle
from tests.harness import Replica
from tests.hostile import details
from tests.series import Caller, graph_says, messages, said, whole_stream
from tests.tracked import Answered
from trivium.sequence.v1 import sequence_pb2 as pb

MAX_STEPS, MAX_MESSAGE_STEPS = 300, 50  # of "lstm", and of one message
NEIGHBOURS = 2
NAN, INFINITY = math.nan, math.inf


@dataclass
class Place:
    """Where hostile requests go, and neighbours that want their bits there all the time."""

    caller: Caller
    channel: grpc.Channel
    bundles: dict[str, Bundle]
    rounds: int = 0  # that neighbours have finished
    failed: list[BaseException] = field(default_factory=list)
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def with_neighbours(self) -> AsyncIterator["Place"]:
        """Series in turns: whole, on a stream, and in a sequence."""
        tasks = [asyncio.create_task(self._neighbour(index)) for index in range(NEIGHBOURS)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def neighbours_are_well(self) -> None:
        """Returns when each of them has got its bits once more."""
        wanted = self.rounds + 2 * NEIGHBOURS
        async with asyncio.timeout(20), self._progress:
            await self._progress.wait_for(lambda: self.rounds >= wanted or self.failed)
        assert self.failed == []

    async def _neighbour(self, index: int) -> None:
        name = ("rnn", "lstm")[index % 2]
        bundle = self.bundles[name]
        x = np.random.default_rng(index).normal(size=(8 + index, bundle.manifest.inputs[0].shape[2]))
        x = x.astype(np.float32)
        expected = graph_says(bundle, x)
        try:
            while True:
                await self._round(name, x, expected, 10_000 + index)
                await asyncio.sleep(0.01)
                async with self._progress:
                    self.rounds += 1
                    self._progress.notify_all()
        except (AssertionError, grpc.aio.AioRpcError) as error:
            self.failed.append(error)
            async with self._progress:
                self._progress.notify_all()

    async def _round(self, name: str, x: Array, expected: Array, sequence_id: int) -> None:
        assert said(await self.caller.track(name, messages(x, (1, 3)))) == expected.tobytes()
        assert await self.caller.forecast(name, x) == expected[-1].tobytes()
        half = len(x) // 2
        first, _ = await self.caller.infer(name, x[:half], sequence_id=sequence_id, sequence_start=True)
        second, _ = await self.caller.infer(name, x[half:], sequence_id=sequence_id, sequence_end=True)
        assert first + second == expected.tobytes()


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


def refusal(error: Any, *, executed: str = "no") -> Refusal:
    code, info, bad = details(error)
    assert (info.domain, info.metadata["instance"], info.metadata["executed"]) == ("trivium", "sequence-1", executed)
    for violation in bad.field_violations:
        assert violation.field == info.metadata["field"]
    assert len(error.details() or "") > 10
    return Refusal(code, info.reason, info.metadata["field"])


async def refused(call: Awaitable[Any]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def stream_refused(place: Place, *sent: dict[str, Any], answers: int = 0) -> tuple[Refusal, str]:
    """Why a stream of these messages ended after so many answers, and the step in its error."""
    came, error = await thrown(place, [pb.TrackRequest(**message).SerializeToString() for message in sent])
    assert len(came) == answers
    return refusal(error), details(error)[1].metadata["step"]


async def thrown(place: Place, sent: Sequence[bytes]) -> tuple[list[Answered], Any]:
    """The answers to a stream of these messages, and its error if it has one."""
    return await asyncio.to_thread(whole_stream, place.channel, sent)


INVALID = Refusal("INVALID_ARGUMENT", "INVALID_FIELD", "values")
TOO_LARGE = Refusal("INVALID_ARGUMENT", "INPUT_TOO_LARGE", "values")
