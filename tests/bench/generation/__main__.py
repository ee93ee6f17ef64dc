"""`python -m tests.bench.generation [--quick]`: texts written for many callers, beside the bare graph and others."""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from services.kit.telemetry import LogSettings, configure_logs
from tests.bench import results
from tests.bench.cores import Cores
from tests.bench.facts import Facts
from tests.bench.generation import load, model
from tests.bench.generation.engines import INSIDE, Engine, engines
from tests.bench.generation.ours import FirstTokens
from tests.bench.generation.report import Report
from tests.gpu_check import gpu

CALLERS = (1, 8, 32)
OTHERS = 15  # texts under way while first tokens are measured


async def measure(
    report: Report, found: dict[str, Engine], callers: int, number: int, say: Callable[[str], None]
) -> None:
    """One round: every engine in turn, another one first each time."""
    wanted = load.texts(callers, model.SHAPE["vocab"])
    names = list(found)
    made = {}
    for name in names[number % len(names) :] + names[: number % len(names)]:
        made[name] = await found[name].made(wanted, callers)
        say(f"round {number + 1}, {callers} callers, {name}: {made[name].tokens / made[name].seconds:.0f} tokens/s")
    reference = made[INSIDE].texts
    for name, one in made.items():
        equal = sum(text == other for text, other in zip(one.texts, reference, strict=False))
        report.add(name, callers, one.tokens / one.seconds, equal, len(one.texts))


async def main(
    *, rounds: int, callers: tuple[int, ...], first_tokens: int, others: bool, threads: int, device: str
) -> None:
    """Measures, prints and writes."""
    where = f"{gpu.describe()}, float16" if device == "cuda" else f"{threads} threads for each engine"
    facts, report, started = Facts.gather(Cores((), (), pinned=False)), Report(where), time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", flush=True)

    say("making the model, and starting the engines")
    files = await asyncio.to_thread(model.made, "FP16" if device == "cuda" else "FP32")
    for number in range(rounds):  # with processes of its own: two of the same kind differ by more than two rounds do
        with tempfile.TemporaryDirectory(prefix="trivium-bench-") as folder:
            async with engines(Path(folder), files, threads, device, others=others) as found:
                say(f"engines: {', '.join(found)}")
                for count in callers:
                    await measure(report, found, count, number, say)
                if number == rounds - 1:
                    say(f"{first_tokens} first tokens")
                    job = {"what": "first token", "others": OTHERS, "count": first_tokens}
                    report.first = FirstTokens(**await found[INSIDE].ask(**job))
    text = report.markdown(facts)
    path = results.path(facts).with_name(f"{results.path(facts).name}-generation")
    content = {"facts": asdict(facts), "figures": asdict(report)}
    path.with_suffix(".json").write_text(f"{json.dumps(results.finite(content), indent=1)}\n", "utf-8")
    path.with_suffix(".md").write_text(f"{text}\n", "utf-8")
    print(f"\n{text}\n\nwritten: {path}.json and .md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.generation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, help="so many; 3 else")
    parser.add_argument("--callers", type=int, action="append", help="so many only; may be repeated")
    parser.add_argument("--alone", action="store_true", help="without transformers and onnxruntime-genai")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each engine")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: with float16")
    given = parser.parse_args()
    configure_logs(LogSettings(level="error"))
    asyncio.run(
        main(
            rounds=given.rounds or (1 if given.quick else 3),
            callers=tuple(given.callers or CALLERS),
            first_tokens=20 if given.quick else 100,
            others=not given.alone,
            threads=given.threads,
            device=given.device,
        )
    )
