"""`python -m tests.bench.side_by_side`: models of one process, each asked alone and while another one is asked too.

One caller each, who asks again as soon as it has its answer, over the port of one instance of each service. Two models
that are asked at the same time share the cores; what is lost besides is what they cost each other.
"""

import argparse
import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import grpc

from services.kit.telemetry import LogSettings, configure_logs
from tests.bench.cores import Cores
from tests.bench.facts import Facts
from tests.bench.spread import Spread
from tests.bench.table import render
from tests.harness import Suite
from tests.images import png, samples
from trivium.language.v1 import language_pb2, language_pb2_grpc
from trivium.vision.v1 import vision_pb2, vision_pb2_grpc

PROMPT, NEW = 24, 96  # tokens
PHRASE = "Diese Seite wurde nicht gefunden, versuchen Sie es noch einmal."
TOGETHER = (
    ("python-gpt", "langid-text"),
    ("python-gpt", "dates-transformer"),
    ("digits-cnn", "shapes-rgb"),
)

Ask = Callable[[], Awaitable[int]]  # gives how many answers, or tokens of one, came of it


def asked(
    language: "language_pb2_grpc.LanguageServiceAsyncStub", vision: "vision_pb2_grpc.VisionServiceAsyncStub"
) -> dict[str, Ask]:
    """A call of each model."""
    numbers = itertools.count()
    pictures = {"digits-cnn": next(iter(samples().values())), "shapes-rgb": png((200, 30, 30), (64, 64))}

    async def write() -> int:
        number, tokens = next(numbers), 0
        request = language_pb2.GenerateRequest(
            model="python-gpt",
            prompt_token_ids=[1 + (number * 7 + place * 13) % 2000 for place in range(PROMPT)],
            max_new_tokens=NEW,
            ignore_eos=True,
            temperature=1.0,
            seed=number,
        )
        async for message in language.Generate(request):
            tokens += len(message.token_ids)
        return tokens

    async def translate() -> int:
        async for _ in language.Generate(language_pb2.GenerateRequest(model="dates-transformer", prompt="27 Nov 2026")):
            pass
        return 1

    async def classify() -> int:
        await language.Classify(language_pb2.ClassifyRequest(model="langid-text", text=PHRASE))
        return 1

    def look(model: str) -> Ask:
        async def see() -> int:
            await vision.Classify(vision_pb2.ClassifyRequest(model=model, image=pictures[model]))
            return 1

        return see

    texts = {"python-gpt": write, "dates-transformer": translate, "langid-text": classify}
    return texts | {model: look(model) for model in pictures}


async def rates(asks: list[Ask], seconds: float) -> list[float]:
    """Answers a second of each, asked at the same time."""
    started = time.perf_counter()

    async def count(ask: Ask) -> int:
        answers = 0
        while time.perf_counter() - started < seconds:
            answers += await ask()
        return answers

    counted = await asyncio.gather(*(count(ask) for ask in asks))
    return [answers / (time.perf_counter() - started) for answers in counted]


async def measured(folder: Path, threads: int, rounds: int, seconds: float) -> Mapping[tuple[str, ...], list[Spread]]:
    """Of each model alone, and of those that are asked together."""
    async with Suite.open(folder) as suite:
        language, vision = [
            await suite.start(service, service, ENGINE__THREADS=threads, LOG__CALLS="failed")
            for service in ("language", "vision")
        ]
        async with (
            grpc.aio.insecure_channel(language.address) as to_language,
            grpc.aio.insecure_channel(vision.address) as to_vision,
        ):
            asks = asked(
                language_pb2_grpc.LanguageServiceStub(to_language), vision_pb2_grpc.VisionServiceStub(to_vision)
            )
            groups = [*((model,) for model in asks), *TOGETHER]
            found: dict[tuple[str, ...], list[list[float]]] = {group: [] for group in groups}
            for number in range(rounds + 1):  # the first one is no measurement
                for group in groups:
                    said = await rates([asks[model] for model in group], seconds)
                    if number:
                        found[group].append(said)
                        print(f"round {number}:", *map("{:.0f} {}".format, said, group), flush=True)
    return {group: [Spread.of(each) for each in zip(*said, strict=True)] for group, said in found.items()}


async def main(threads: int, rounds: int, seconds: float) -> None:
    """Measures and prints."""
    facts = Facts.gather(Cores((), (), pinned=False))
    with tempfile.TemporaryDirectory(prefix="trivium-bench-") as folder:
        found = await measured(Path(folder), threads, rounds, seconds)
    lines = []
    for pair in TOGETHER:
        for model, together in zip(pair, found[pair], strict=True):
            alone, (other,) = found[model,][0], set(pair) - {model}
            lines.append([model, _cell(alone), other, _cell(together), f"{together.median / alone.median:.2f}"])
    print(f"\n{facts.date[:10]}, {facts.cpu}, {facts.cores} cores, {threads} threads, commit {facts.commit}\n")
    print(render(("asked", "alone, answers (tokens) a second", "beside", "then", "of alone"), lines))


def _cell(spread: Spread) -> str:
    return f"{spread.median:.0f} [{spread.low:.0f}-{spread.high:.0f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.side_by_side", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    given = parser.parse_args()
    configure_logs(LogSettings(level="error"))
    asyncio.run(main(given.threads, given.rounds, given.seconds))
