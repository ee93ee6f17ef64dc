"""`python -m tests.bench.drafts`: what speculative decoding by prompt lookup gives a few callers on the CPU.

python-gpt goes on with functions of this repository, which it was not trained on, with drafts and without, in turns:
the same texts, compared token for token. How much a draft costs is what a step with more tokens takes longer: that is
measured for python-gpt and for the random Llama of the other benchmark, which has many times as many weights. Where
onnxruntime-genai can be had, one caller is compared with it, too, on the weights of python-gpt.
"""

import argparse
import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from services.kit.inference import bundle as bundles
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.engine import Engine, EngineSettings, share_threads
from services.kit.inference.loading import ModelsSettings
from services.kit.inference.models import Models
from services.kit.telemetry import LogSettings, configure_logs
from services.language.answers import Answers
from services.language.engine.drawn import Draws, Wishes
from services.language.engine.memory import caches
from services.language.engine.runs import Runs
from services.language.leaving import Leaving
from services.language.loader import loader
from services.language.metrics import GenerationMetrics
from services.language.settings import GenerationSettings
from services.language.tokenizer import Tokenizer
from services.language.writer import Writer
from tests.bench import gpt_checkpoint
from tests.bench.cores import Cores
from tests.bench.facts import ROOT, Facts
from tests.bench.generation import engines as bench_engines
from tests.bench.generation import model as bench_model
from tests.bench.generation.load import Text
from tests.bench.spread import Spread, ratios
from tests.bench.table import render
from trivium.language.v1 import language_pb2 as pb

MODEL, SHIPPED = "python-gpt", ROOT / "services" / "language" / "bundles"
TEXTS, NEW = 40, 128
CALLERS, TOKENS = (1, 2), (1, 2, 3, 4, 5)
ROOM, PLACE, TIMES = 128, 60, 100  # of the cache, of the first token in it, and steps that are timed
WAYS: dict[str, dict[str, Any]] = {
    "most probable": {"temperature": 0.0},
    "temperature 0.8, top_p 0.95": {"temperature": 0.8, "top_p": 0.95, "seed": 5},
}


def prompts() -> list[str]:
    """Beginnings of functions, of several lengths."""
    source, found = random.Random(1), list[str]()
    texts = [path.read_text("utf-8") for path in sorted((ROOT / "services").rglob("*.py"))]
    texts = [text for text in texts if len(text) > 4000 and "def " in text[len(text) // 2 :]]
    for text in source.sample(texts, TEXTS):
        begin = text.index("def ", source.randrange(len(text) // 2))
        found.append(text[begin : begin + source.choice((60, 200, 500))])
    return found


@dataclass
class Found:
    """What came of the rounds."""

    rates: list[float] = field(default_factory=list)  # tokens a second
    texts: list[list[int]] = field(default_factory=list)
    made: float = 0.0
    steps: float = 0.0


class Opened:
    """The service's own code, with or without drafts."""

    def __init__(self, writer: Writer, registry: CollectorRegistry) -> None:
        self._writer, self._registry = writer, registry

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, threads: int, **settings: Any) -> AsyncIterator["Opened"]:
        """Loads python-gpt."""
        engine, registry = EngineSettings(device="cpu", threads=threads), CollectorRegistry()
        models = ModelsSettings("language", (SHIPPED,), MODEL, engine, BatcherSettings())
        load = loader(GenerationSettings(prefix_mib=0, **settings), GenerationMetrics(registry))
        async with Models.open(models, load, registry) as opened:
            writer = opened.find(MODEL).pipeline
            assert isinstance(writer, Writer)
            yield cls(writer, registry)

    async def measure(self, requests: Sequence[pb.GenerateRequest], callers: int, found: Found) -> None:
        """All texts, so many at a time."""
        waiting, texts = iter(enumerate(requests)), dict[int, list[int]]()

        async def caller() -> None:
            for number, request in waiting:
                texts[number] = await self._written(request)

        made, steps, started = self._counted("tokens_total", "made"), self._steps(), time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        seconds = time.perf_counter() - started
        found.texts = [texts[number] for number in range(len(requests))]
        found.rates.append(sum(map(len, found.texts)) / seconds)
        found.made += self._counted("tokens_total", "made") - made
        found.steps += self._steps() - steps

    async def _written(self, request: pb.GenerateRequest) -> list[int]:
        texts = await self._writer.texts(request, Deadline(), lambda: 0)
        tokens: list[int] = []
        async for message in Answers(self._writer, texts, MODEL, None).messages(Leaving()):
            message.SerializeToString()
            tokens += message.token_ids
        return tokens

    def _steps(self) -> float:
        return sum(self._counted("step_rows_sum", kind) for kind in ("prefill", "decode"))

    def _counted(self, name: str, kind: str) -> float:
        labels = {"model": MODEL, "version": "1", "kind": kind}
        return self._registry.get_sample_value(f"trivium_generation_{name}", labels) or 0.0


@contextlib.asynccontextmanager
async def genai(folder: Path, threads: int) -> AsyncIterator[bench_engines.Engine | None]:
    """onnxruntime-genai with the weights of python-gpt; None where it cannot be had."""
    python = await asyncio.to_thread(bench_model.genai_python)
    checkpoint, built = folder / "checkpoint", folder / "genai"
    if python is not None:
        await asyncio.to_thread(gpt_checkpoint.write, SHIPPED / MODEL / "1", checkpoint)
    if python is None or not await asyncio.to_thread(bench_model.make_genai, checkpoint, built):
        yield None
        return
    script = Path(bench_engines.__file__).with_name("genai.py")
    command = (python, script, built, 0)
    async with bench_engines.running(folder / "genai.log", command, {"threads": threads, "device": "cpu"}) as engine:
        yield engine


async def beside(other: bench_engines.Engine, threads: int, rounds: int) -> list[list[str]]:
    """One caller, the most probable tokens: without drafts, with them, and the other engine, in turns."""
    requests = [
        pb.GenerateRequest(prompt=prompt, max_new_tokens=NEW, ignore_eos=True, temperature=0) for prompt in prompts()
    ]
    generation = bundles.load(SHIPPED / MODEL / "1").manifest.generation
    assert generation is not None
    tokenizer = Tokenizer(SHIPPED / MODEL / "1" / generation.tokenizer, generation.vocab)
    wanted = [Text([*generation.begin, *tokenizer.encode(prompt)], NEW) for prompt in prompts()]
    found, rates, equal = {False: Found(), True: Found()}, list[float](), 0
    async with Opened.open(threads, speculative_tokens=0) as plain, Opened.open(threads) as drafting:
        for _ in range(rounds + 1):  # the first one is no measurement
            await plain.measure(requests, 1, found[False])
            await drafting.measure(requests, 1, found[True])
            made = await other.made(wanted, 1)
            rates.append(made.tokens / made.seconds)
            equal = sum(one == text for one, text in zip(made.texts, found[True].texts, strict=True))
    whole = _cell(Spread.of(rates[1:]), 0)
    parts = [_cell(ratios(found[drafts].rates[1:], rates[1:]), 2) for drafts in (False, True)]
    return [["most probable", "1", whole, *parts, f"{equal} of {TEXTS}"]]


async def texts(threads: int, rounds: int) -> list[list[str]]:
    """A line for each way and number of callers."""
    lines = []
    async with Opened.open(threads, speculative_tokens=0) as plain, Opened.open(threads) as drafting:
        for way, wishes in WAYS.items():
            requests = [
                pb.GenerateRequest(prompt=prompt, max_new_tokens=NEW, ignore_eos=True, **wishes) for prompt in prompts()
            ]
            for callers in CALLERS:
                found = {False: Found(), True: Found()}
                for number in range(rounds + 1):  # the first one is no measurement
                    for drafts in (True, False) if number % 2 else (False, True):
                        await (drafting if drafts else plain).measure(requests, callers, found[drafts])
                rates = {drafts: each.rates[1:] for drafts, each in found.items()}
                gain, equal = ratios(rates[True], rates[False]), found[True].texts == found[False].texts
                lines.append(
                    [
                        way,
                        str(callers),
                        _cell(Spread.of(rates[False]), 0),
                        _cell(Spread.of(rates[True]), 0),
                        _cell(gain, 2),
                        f"{found[True].made / found[True].steps:.2f}",
                        "all" if equal else "NOT ALL",
                    ]
                )
                print(*lines[-1], flush=True)
    return lines


def steps(path: Path, threads: int) -> list[list[str]]:
    """What a step takes for so many texts by its tokens of each, as multiples of one token's."""
    bundle = bundles.load(path)
    generation = bundle.manifest.generation
    assert generation is not None
    engine = Engine(path / bundles.MODEL, EngineSettings(device="cpu", threads=threads))
    lines = []
    for rows in CALLERS:
        times = [
            _step_ms(Runs(generation, engine, caches(generation, 256, 4, path.name).texts), rows, count)
            for count in TOKENS
        ]
        multiples = [f"{each / times[0]:.2f}" for each in times[1:]]
        lines.append([bundle.name, str(rows), f"{times[0]:.2f}", *multiples])
    return lines


def _step_ms(runs: Runs, rows: int, count: int) -> float:
    runs.cache.settle(ROOM, [])
    draws = Draws(Wishes.greedy(np.arange(rows * count)), [0.0] * rows * count)
    token_ids, start, taken = [[5] * count] * rows, [PLACE] * rows, []
    for _ in range(TIMES):
        started = time.perf_counter()
        runs.run(0, token_ids, start, draws)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken)) * 1e3


def _cell(spread: Spread, digits: int) -> str:
    return f"{spread.median:.{digits}f} [{spread.low:.{digits}f}-{spread.high:.{digits}f}]"


async def main(threads: int, rounds: int) -> None:
    """Measures and prints."""
    facts = Facts.gather(Cores((), (), pinned=False))
    share_threads(EngineSettings(threads=threads))
    written = await texts(threads, rounds)
    with tempfile.TemporaryDirectory(prefix="trivium-bench-") as folder:
        async with genai(Path(folder), threads) as other:
            compared = await beside(other, threads, rounds) if other is not None else []
    llama = next(bench_model.made().bundles.glob("*/1"))
    taken = [line for path in (SHIPPED / MODEL / "1", llama) for line in steps(path, threads)]
    head = ("texts", "callers", "without, tokens/s", "with drafts", "ratio", "tokens a step", "equal")
    print(f"\n{facts.date[:10]}, {facts.cpu}, {facts.cores} cores, {threads} threads, commit {facts.commit}\n")
    print(render(head, written))
    print()
    if compared:
        print(
            render(("texts", "callers", "genai, tokens/s", "without drafts", "with drafts", "equal to genai"), compared)
        )
        print()
    print(render(("step of", "texts", "1 token, ms", *(f"{count} tokens" for count in TOKENS[1:])), taken))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.drafts", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    configure_logs(LogSettings(level="error"))
    asyncio.run(main(given.threads, given.rounds))
