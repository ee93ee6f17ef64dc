"""What this suite does with the load: in the service's own code, and over a port."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.bundle import Array
from services.kit.inference.engine import Device, EngineSettings, share_threads
from services.kit.inference.loading import ModelsSettings
from services.kit.inference.models import Models
from services.kit.interpreter import hand_over_soon
from services.language.answers import Answers
from services.language.engine.drawn import Drawn, Draws
from services.language.engine.runs import Runs
from services.language.leaving import Leaving
from services.language.loader import loader
from services.language.metrics import GenerationMetrics
from services.language.settings import GenerationSettings
from services.language.writer import Writer
from tests.bench.generation.load import Made, Text, closed_loop
from tests.bench.generation.model import NAME, SHAPE
from tests.harness import OPTIONS
from trivium.language.v1 import language_pb2 as pb

GENERATE = "/trivium.language.v1.LanguageService/Generate"
SHORT = 8  # tokens of a short prompt


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """How long short prompts waited for their first tokens while other texts were being written."""

    steps: list[int]  # that the others took from the request to the token, the one under way included
    seconds: list[float]
    step_s: float  # mean time of a step


def asked(text: Text) -> pb.GenerateRequest:
    """The most probable tokens, as many as wanted."""
    return pb.GenerateRequest(
        model=NAME, prompt_token_ids=text.prompt, max_new_tokens=text.new, temperature=0, ignore_eos=True
    )


async def over(address: str, wanted: list[Text], callers: int) -> Made:
    """Over one connection."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        generate: Any = channel.unary_stream(GENERATE)

        async def write(text: Text) -> AsyncGenerator[list[int], None]:
            async for answer in generate(asked(text).SerializeToString()):
                yield list(pb.GenerateResponse.FromString(answer).token_ids)

        return await closed_loop(write, wanted, callers)


class Steps:
    """Counts the runs that take texts one token further, as they end; metrics learn of them some time later."""

    def __init__(self, runs: Runs) -> None:
        self.count = 0
        self._run, self._ended = runs.run, runs.ended
        runs.run, runs.ended = self.run, self.ended  # type: ignore[method-assign]

    def run(
        self,
        first: int,
        token_ids: Sequence[Sequence[int]],
        start: Sequence[int],
        draws: Draws,
        source_length: Array | None = None,
    ) -> Drawn:
        """See Runs."""
        drawn = self._run(first, token_ids, start, draws, source_length)
        self.count += max(map(len, token_ids)) == 1
        return drawn

    def ended(self) -> Drawn:
        """See Runs."""
        drawn = self._ended()
        self.count += 1
        return drawn


class Inside:
    """The loaded model, in this process."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._leaving = writer, Leaving()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, bundles: Path, threads: int, device: Device) -> AsyncGenerator["Inside", None]:
        """Loads it."""
        hand_over_soon()
        engine, registry = EngineSettings(device=device, threads=threads), CollectorRegistry()
        share_threads(engine)
        settings = ModelsSettings("language", (bundles,), NAME, engine, BatcherSettings())
        # No beginning is kept: prompts come again here, and reading them is what is measured.
        load = loader(GenerationSettings(prefix_mib=0), GenerationMetrics(registry))
        async with Models.open(settings, load, registry) as models:
            writer = models.find(NAME).pipeline
            assert isinstance(writer, Writer)
            yield cls(writer)

    async def rate(self, wanted: list[Text], callers: int) -> Made:
        """With messages made and turned into bytes, and sent nowhere."""
        return await closed_loop(self._write, wanted, callers)

    async def first_tokens(self, others: int, count: int) -> FirstTokens:
        """`count` short prompts, one after the other, while `others` texts are being written."""
        source, taken = random.Random(3), Steps(self._writer.scheduler._batch._runs)
        begun = asyncio.Semaphore(0)

        async def other() -> None:
            while True:
                prompt = [source.randrange(SHAPE["vocab"]) for _ in range(SHORT)]
                first = True
                async for _ in self._write(Text(prompt, SHAPE["max_tokens"] - SHORT)):
                    if first:
                        begun.release()
                    first = False

        tasks = [asyncio.create_task(other()) for _ in range(others)]
        try:
            for _ in tasks:
                await begun.acquire()
            steps, seconds, started, before = [], [], time.perf_counter(), taken.count
            for _ in range(count):
                await asyncio.sleep(source.random() * 0.1)  # at any moment of a step
                at, since = taken.count, time.perf_counter()
                async for _ in self._write(Text([source.randrange(SHAPE["vocab"]) for _ in range(SHORT)], 1)):
                    seconds.append(time.perf_counter() - since)
                    steps.append(taken.count - at)
            mean_s = (time.perf_counter() - started) / (taken.count - before)
            return FirstTokens(steps, seconds, mean_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, text: Text) -> AsyncGenerator[list[int], None]:
        texts = await self._writer.texts(asked(text), Deadline(), lambda: 0)
        messages = Answers(self._writer, texts, NAME, None).messages(self._leaving)
        async with contextlib.aclosing(messages):
            async for message in messages:
                message.SerializeToString()
                yield list(message.token_ids)
