"""LiveStreams: many Track streams and sequences under way; every answer is compared with that of an unbroken run."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference import grpc_service_pb2 as oip
from services.kit.deadline import Deadline
from services.kit.errors import error_info
from services.kit.transport.upstream import CallFailed, Upstream
from tests.tracked import Answered, by_step
from trivium.sequence.v1 import sequence_pb2 as pb

TRACK = "/trivium.sequence.v1.SequenceService/Track"
INFER = "/inference.GRPCInferenceService/ModelInfer"
Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Series:
    """One series, how it is cut into messages, and what an unbroken stream said after each step."""

    messages: tuple[Array, ...]  # each float32 [steps]
    answers: tuple[bytes, ...]  # of each step, to the bit


def random_series(rng: random.Random, longest: int) -> tuple[Array, ...]:
    """Messages of one to eight steps, of random length together."""
    length = rng.randint(max(1, longest // 8), longest)
    values = np.array([rng.gauss(0, 1) for _ in range(length)], np.float32)
    cuts = sorted({0, length, *(rng.randrange(length) for _ in range(length // 2))})
    parts = [values[a:b] for a, b in itertools.pairwise(cuts)]
    return tuple(piece for part in parts for piece in np.array_split(part, -(-len(part) // 8)))


def said(answer: Answered) -> bytes:
    """What the answer says, to the bit."""
    return (
        list(answer.values).__repr__().encode()
        if answer.values
        else b"".join(c.SerializeToString() for c in answer.classes)
    )


@dataclass
class LiveStreams:
    """Runs `count` streams at a time, one series after the other, until it is closed; every stream is then finished.

    `failures` names every stream that ended in an error, lost or doubled a step, or said something else than before.
    """

    upstream: Upstream
    model: str
    known: list[Series]
    pause_s: float  # between two messages of a stream, at most
    rng: random.Random
    begun: int = 0
    ended: int = 0
    steps: int = 0  # answered
    failures: list[str] = field(default_factory=list)
    _stopping: bool = False
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def running(self, count: int, sequences: int = 0) -> AsyncIterator["LiveStreams"]:
        """Keeps so many streams, and so many sequences of the Open Inference Protocol, going."""
        tasks = [asyncio.create_task(self._repeat(self._stream)) for _ in range(count)]
        tasks += [asyncio.create_task(self._repeat(self._sequence)) for _ in range(sequences)]
        try:
            yield self
        finally:
            self._stopping = True
            await asyncio.gather(*tasks)

    async def more(self, steps: int) -> None:
        """Returns when that many further steps have been answered, or a stream has failed."""
        wanted, failed = self.steps + steps, len(self.failures)
        async with self._progress:
            await self._progress.wait_for(lambda: self.steps >= wanted or len(self.failures) > failed)

    async def _repeat(self, one: Callable[[int, Series], Any]) -> None:
        while not self._stopping:
            self.begun += 1
            number, series = self.begun, self.rng.choice(self.known)
            try:
                await one(number, series)
            except CallFailed as failure:
                info = error_info(failure.status)
                await self._fail(number, f"{failure} {dict(info.metadata) if info else ''}")
            except AssertionError as error:
                await self._fail(number, f"wrong: {error}")
            self.ended += 1

    async def _fail(self, number: int, what: str) -> None:
        self.failures.append(f"stream {number}: {what}")
        await self._answered(0)

    async def _stream(self, number: int, series: Series) -> None:
        async def messages() -> AsyncIterator[bytes]:
            yield pb.TrackRequest(model=self.model).SerializeToString()
            for message in series.messages:
                yield pb.TrackRequest(values=message).SerializeToString()
                await asyncio.sleep(self.rng.random() * self.pause_s)

        count = 0
        async for data in self.upstream.stream(TRACK, messages(), (), Deadline(), []):
            answers = by_step([data])
            for answer in answers:
                count += 1
                assert answer.step == count, f"step {answer.step} where {count} was due"
                assert said(answer) == series.answers[count - 1], f"another answer to step {count}"
                assert not answer.state, "state that nobody asked for"
            await self._answered(len(answers))
        assert count == len(series.answers), f"{count} answers to {len(series.answers)} steps"

    async def _sequence(self, number: int, series: Series) -> None:
        """The same series by ModelInfer, where the gateway keeps the state."""
        count = 0
        for index, message in enumerate(series.messages):
            request = oip.ModelInferRequest(model_name=self.model)
            request.inputs.add(name="x", datatype="FP32", shape=[1, len(message), 1])
            request.raw_input_contents.append(message.tobytes())
            request.parameters["sequence_id"].string_param = f"sequence-{number}"
            request.parameters["sequence_start"].bool_param = index == 0
            request.parameters["sequence_end"].bool_param = index == len(series.messages) - 1
            reply = await self.upstream.unary(INFER, request.SerializeToString(), (), Deadline.after(60))
            answer = oip.ModelInferResponse.FromString(reply.message)
            rows = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(len(message), -1)
            for row in rows:
                count += 1
                expected = series.answers[count - 1]
                assert row.tolist().__repr__().encode() == expected, f"another answer to step {count} of a sequence"
            await self._answered(len(rows))
            await asyncio.sleep(self.rng.random() * self.pause_s)

    async def _answered(self, steps: int) -> None:
        self.steps += steps
        async with self._progress:
            self._progress.notify_all()


async def unbroken(upstream: Upstream, model: str, messages: tuple[Array, ...]) -> Series:
    """The series with the answers of a stream that nothing disturbs, one step a message."""
    values = np.concatenate(messages)

    async def steps() -> AsyncIterator[bytes]:
        yield pb.TrackRequest(model=model).SerializeToString()
        for value in values:
            yield pb.TrackRequest(values=[value]).SerializeToString()

    answers = upstream.stream(TRACK, steps(), (), Deadline(), [])
    return Series(messages, tuple(map(said, by_step([data async for data in answers]))))
