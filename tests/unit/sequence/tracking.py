"""Callers of Track: what they send, and what they get."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import TriviumError
from services.sequence.servicer import SequenceServicer
from services.sequence.settings import SeriesSettings
from tests.tracked import Answered, by_step
from trivium.sequence.v1 import sequence_pb2 as pb

SETTINGS = SeriesSettings(window_steps=8, max_message_steps=20)


def call() -> Call:
    return Call("/trivium.sequence.v1.SequenceService/Test", Deadline())


def message(*values: float, **fields: Any) -> pb.TrackRequest:
    return pb.TrackRequest(values=values, **fields)


async def stream(*requests: pb.TrackRequest) -> AsyncIterator[pb.TrackRequest]:
    for request in requests:
        yield request


async def tracked(servicer: SequenceServicer, *requests: pb.TrackRequest, this: Call | None = None) -> list[Answered]:
    """The answers to a stream of these messages, step by step."""
    return by_step([answer async for answer in servicer.track(stream(*requests), this or call())])


async def responses(servicer: SequenceServicer, *requests: pb.TrackRequest) -> list[tuple[list[int], bool]]:
    """The steps of each response to a stream of these messages, and whether it brings the state."""
    found = [by_step([answer]) async for answer in servicer.track(stream(*requests), call())]
    return [([one.step for one in steps], bool(steps[-1].state)) for steps in found]


async def failure(
    servicer: SequenceServicer, *requests: pb.TrackRequest, this: Call | None = None
) -> tuple[list[Answered], TriviumError]:
    """The answers before the error that the stream ends with."""
    answers: list[Answered] = []
    try:
        async for answer in servicer.track(stream(*requests), this or call()):
            answers += by_step([answer])
    except TriviumError as error:
        return answers, error
    raise AssertionError("the stream ended well")


def sums(answers: list[Answered]) -> list[float]:
    """What "numbers" has answered: the sum of all numbers so far."""
    return [answer.values[0] for answer in answers]


class Caller:
    """A caller that sends when the test says so."""

    def __init__(self) -> None:
        self._sent: asyncio.Queue[pb.TrackRequest | None] = asyncio.Queue()
        self.read, self.gone = 0, asyncio.Event()

    def send(self, *requests: pb.TrackRequest | None) -> None:
        for request in requests:
            self._sent.put_nowait(request)

    async def messages(self) -> AsyncGenerator[pb.TrackRequest, None]:
        try:
            while (request := await self._sent.get()) is not None:
                self.read += 1
                yield request
        finally:
            self.gone.set()


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)
