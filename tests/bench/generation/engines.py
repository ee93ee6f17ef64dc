"""Engines: everything that is compared, each in a process of its own that answers jobs."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.facts import ROOT
from tests.bench.generation.load import Made, Text
from tests.bench.generation.model import NAME, SHAPE, Files, genai_python, make_genai
from tests.harness import Suite, serving

FLOOR, JOINED, INSIDE, PORT, GATEWAY = "floor", "floor-joined", "inside", "port", "gateway"
TRANSFORMERS, GENAI = "transformers", "genai"
LINE = 1 << 26  # bytes of the longest answer


@dataclass(frozen=True, slots=True)
class Engine:
    """One of them."""

    process: asyncio.subprocess.Process
    log: Path
    job: Mapping[str, Any]  # what every job says

    async def made(self, wanted: list[Text], callers: int) -> Made:
        """The load, once."""
        return Made(**await self.ask(what="rate", texts=[asdict(text) for text in wanted], callers=callers))

    async def ask(self, **job: Any) -> Any:
        """What came of a job.

        Raises:
            RuntimeError: the process has ended; says its last words.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{json.dumps({**self.job, **job})}\n".encode())
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.log.name} ended:\n{self.log.read_text('utf-8', 'replace')[-2000:]}")
        return json.loads(line)


@contextlib.asynccontextmanager
async def engines(
    folder: Path, files: Files, threads: int, device: str, *, others: bool
) -> AsyncGenerator[dict[str, Engine], None]:
    """All of them, by name; genai is missing where it cannot be had.

    Args:
        folder: for logs and Consul's data.
        threads: of each engine.
        device: cpu or cuda.
        others: whether transformers and onnxruntime-genai are among them.
    """
    async with contextlib.AsyncExitStack() as stack:
        suite = await stack.enter_async_context(Suite.open(folder))
        instance = await suite.start(
            "language",
            "language-1",
            BUNDLES_DIR=files.bundles,
            DEFAULT_MODEL=NAME,
            ENGINE__DEVICE=device,
            ENGINE__THREADS=threads,
            GENERATION__PREFIX_MIB=0,
            LOG__CALLS="failed",
        )
        gateway = await suite.start_gateway(LOG__CALLS="failed")
        await serving(gateway.address, f"model/{NAME}")

        async def start(name: str, *command: object, **job: object) -> Engine:
            return await stack.enter_async_context(running(folder / f"{name}.log", command, {"device": device, **job}))

        def worker(kind: str) -> tuple[object, ...]:
            return sys.executable, "-m", "tests.bench.generation.worker", kind, files.folder

        found = {
            FLOOR: await start(FLOOR, *worker("floor"), threads=threads, joined=False),
            JOINED: await start(JOINED, *worker("floor"), threads=threads, joined=True),
            INSIDE: await start(INSIDE, *worker("inside"), threads=threads),
            PORT: await start(PORT, *worker("callers"), address=instance.address),
            GATEWAY: await start(GATEWAY, *worker("callers"), address=gateway.address),
        }
        if others:
            found[TRANSFORMERS] = await start(TRANSFORMERS, *worker("transformers"), threads=threads)
            if (python := await asyncio.to_thread(_genai, files, device)) is not None:
                script = Path(__file__).with_name("genai.py")
                found[GENAI] = await start(GENAI, python, script, files.genai, SHAPE["vocab"] - 1, threads=threads)
        yield found


def _genai(files: Files, device: str) -> Path | None:
    python = genai_python(device)
    return python if python is not None and make_genai(files.checkpoint, files.genai, device) else None


@contextlib.asynccontextmanager
async def running(log: Path, command: tuple[object, ...], job: Mapping[str, Any]) -> AsyncGenerator[Engine, None]:
    """An engine in a process of its own, whose last words are in `log`; `job` is what every job says."""
    pipe = asyncio.subprocess.PIPE
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), cwd=ROOT, stdin=pipe, stdout=pipe, stderr=errors, limit=LINE
        )
    try:
        yield Engine(process, log, job)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
