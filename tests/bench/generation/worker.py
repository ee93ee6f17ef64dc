"""`python -m tests.bench.generation.worker ENGINE FOLDER`: one engine in a process of its own.

A line of standard input is a job, a line of standard output what came of it, both JSON.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.kit.inference import bundle as bundles
from services.kit.telemetry import LogSettings, configure_logs
from tests.bench.generation import ours
from tests.bench.generation.floor import Floor, GpuFloor
from tests.bench.generation.load import Made, Text
from tests.bench.generation.model import NAME, SHAPE, Files

Work = Callable[[dict[str, Any]], Any]


def floor(files: Files) -> Work:
    """The bare graph."""
    bundle = bundles.load(files.bundles / NAME / "1")

    def work(job: dict[str, Any]) -> Made:
        given = job["callers"], SHAPE["max_tokens"], job["threads"]
        kind = GpuFloor if job["device"] == "cuda" else Floor
        return kind(bundle, *given, joined=job["joined"]).measured(_texts(job))

    return work


def inside(files: Files) -> Work:
    """The service's own code without a transport; loaded with the first job."""
    runner, stack, opened = asyncio.Runner(), contextlib.AsyncExitStack(), list[ours.Inside]()

    async def measured(job: dict[str, Any]) -> Any:
        if not opened:
            entered = ours.Inside.open(files.bundles, job["threads"], job["device"])
            opened.append(await stack.enter_async_context(entered))
        if job["what"] == "first token":
            return await opened[0].first_tokens(job["others"], job["count"])
        return await opened[0].rate(_texts(job), job["callers"])

    return lambda job: runner.run(measured(job))


def callers(_: Files) -> Work:
    """Callers of a port, which the job names."""
    runner = asyncio.Runner()
    return lambda job: runner.run(ours.over(job["address"], _texts(job), job["callers"]))


def transformers(files: Files) -> Work:
    """transformers.generate; loaded with the first job."""
    from tests.bench.generation.static import Transformers

    opened = list[Transformers]()

    def work(job: dict[str, Any]) -> Made:
        if not opened:
            opened.append(Transformers(files.checkpoint, job["threads"], job["device"]))
        return opened[0].measured(_texts(job), job["callers"])

    return work


ENGINES: dict[str, Callable[[Files], Work]] = {
    "floor": floor,
    "inside": inside,
    "callers": callers,
    "transformers": transformers,
}


def _texts(job: dict[str, Any]) -> list[Text]:
    return [Text(**text) for text in job["texts"]]


def main(engine: str, folder: str) -> None:
    """Works until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    configure_logs(LogSettings(level="error"))
    work = ENGINES[engine](Files(Path(folder)))
    for line in sys.stdin:
        print(json.dumps(asdict(work(json.loads(line)))), file=answers, flush=True)
    answers.close()
    os._exit(0)  # the models of the service end with the process


if __name__ == "__main__":
    main(*sys.argv[1:])
