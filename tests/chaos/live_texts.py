"""LiveTexts: many calls for texts under way; every text is compared with that of an unbroken call."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.kit.deadline import Deadline
from services.kit.errors import error_info
from services.kit.transport.upstream import CallFailed, Upstream
from tests.texts import GENERATE, Written, put_together
from trivium.language.v1 import language_pb2 as pb

LETTERS = "abcdefghij ()=三百🙂\n"


@dataclass(frozen=True)
class Known:
    """What one call asks for, and the texts that an unbroken call gave."""

    request: Any
    texts: Sequence[object]


def random_request(rng: random.Random, longest: int) -> pb.GenerateRequest:
    """Greedy or drawn, of one or three texts, with penalties, biases, stop strings and log-probabilities or without."""
    source = rng.random() < 0.2
    request = pb.GenerateRequest(
        model="translate" if source else "novel",
        prompt="".join(rng.choices(LETTERS, k=rng.randint(1, 16))),
        max_new_tokens=60 if source else rng.randint(longest // 4, longest),
        seed=rng.getrandbits(64),
        ignore_eos=rng.random() < 0.7,
        echo=rng.random() < 0.2,
    )
    if rng.random() < 0.7:
        request.temperature, request.top_p = rng.choice((0.5, 1.0, 1.5)), rng.choice((0.8, 1.0))
        request.n = rng.choice((1, 3))
    if rng.random() < 0.5:
        request.repetition_penalty = rng.choice((1.1, 1.5))
        request.presence_penalty, request.frequency_penalty = rng.random(), rng.random()
    if rng.random() < 0.3:
        request.logit_bias.update({rng.randrange(256): rng.uniform(-5, 3) for _ in range(8)})
    if rng.random() < 0.5:
        request.stop.extend(rng.choice((["th", "in"], ["e"], ["ing", "def", ")"], ["🙂", "\n"])))
        request.min_new_tokens = rng.choice((0, 20))
    if rng.random() < 0.5:
        request.logprobs = rng.choice((0, 1, 4))
    return request


@dataclass
class LiveTexts:
    """Runs `count` calls at a time, one request after the other, until it is closed; every call is then finished.

    `ask` makes a call for texts, tells of the tokens that come and returns the texts. `failures` names every call that
    ended in an error, lost or doubled a token, or said something else than before.
    """

    upstream: Upstream
    known: list[Known]
    rng: random.Random
    ask: Callable[[Upstream, Any, Callable[[int], Any]], Awaitable[Sequence[object]]]
    begun: int = 0
    ended: int = 0
    tokens: int = 0  # that came
    failures: list[str] = field(default_factory=list)
    _stopping: bool = False
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def running(self, count: int) -> AsyncIterator["LiveTexts"]:
        """Keeps so many calls going."""
        tasks = [asyncio.create_task(self._repeat()) for _ in range(count)]
        try:
            yield self
        finally:
            self._stopping = True
            await asyncio.gather(*tasks)

    async def more(self, tokens: int) -> None:
        """Returns when that many further tokens have come, or a call has failed."""
        wanted, failed = self.tokens + tokens, len(self.failures)
        async with self._progress:
            await self._progress.wait_for(lambda: self.tokens >= wanted or len(self.failures) > failed)

    async def _repeat(self) -> None:
        while not self._stopping:
            self.begun += 1
            number, known = self.begun, self.rng.choice(self.known)
            try:
                texts = await self.ask(self.upstream, known.request, self._came)
                assert texts == known.texts, f"other texts: {texts} instead of {known.texts}"
            except CallFailed as failure:
                info = error_info(failure.status)
                await self._fail(number, f"{failure} {dict(info.metadata) if info else ''}")
            except AssertionError as error:
                await self._fail(number, f"wrong: {error}")
            self.ended += 1

    async def _fail(self, number: int, what: str) -> None:
        self.failures.append(f"call {number}: {what}")
        await self._came(0)

    async def _came(self, tokens: int) -> None:
        self.tokens += tokens
        async with self._progress:
            self._progress.notify_all()


async def written(
    upstream: Upstream, request: pb.GenerateRequest, came: Callable[[int], Any] | None = None
) -> list[Written]:
    """The texts of one call; `came` is told of the tokens of each message.

    Raises:
        CallFailed: the call has failed.
        AssertionError: its messages do not fit together.
    """

    async def requests() -> AsyncIterator[bytes]:
        yield request.SerializeToString()

    messages = []
    async for data in upstream.stream(GENERATE, requests(), (), Deadline(), []):
        message = pb.GenerateResponse.FromString(data)
        messages.append(message)
        if came is not None:
            await came(len(message.token_ids) - message.echoed)
    return put_together(messages, max(1, request.n))
