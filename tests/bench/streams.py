"""`python -m tests.bench.streams [--quick]`: live streams against the bare engine, and what they cost elsewhere."""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from prometheus_client import CollectorRegistry

from services.kit.ahead import ahead
from services.kit.deadline import Deadline
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.bundle import Bundle
from services.kit.inference.engine import Engine, EngineSettings
from services.kit.inference.loading import ModelsSettings, batched
from services.kit.inference.models import Models
from services.kit.telemetry import LogSettings, configure_logs
from services.kit.wire import with_field
from services.sequence.pipeline import Pipeline
from services.sequence.recurrent import runner_of
from services.sequence.servicer import COMPUTED_AHEAD, READ_AHEAD
from services.sequence.settings import SeriesSettings
from services.sequence.state import StreamState
from services.sequence.stream import STATE, Stream
from tests.bench import results
from tests.bench.cores import Cores
from tests.bench.facts import Facts
from tests.bench.table import render
from tests.harness import OPTIONS, Replica, Suite, serving
from tests.recurrent import recurrent_bundle
from trivium.sequence.v1 import sequence_pb2 as pb

SERVICE = "/trivium.sequence.v1.SequenceService"
STREAMS = 64
ENGINE = EngineSettings(device="cpu", threads=1)
HIDDEN = (384, 640, 1024)  # units of each of the two layers
MESSAGES = (1, 16, 64)  # steps of a message
WINDOW_STEPS = SeriesSettings().window_steps
TINY = "bench-lstm-16"
LONG = 1_000_000_000  # steps: no stream gets there
Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Load:
    """Streams that send messages and read the answers."""

    streams: int = STREAMS
    steps: int = 1  # of a message
    ahead: int = 4  # messages of one stream that are sent and not answered
    state: bool = False  # whether the state is handed out with every message


StreamOf = Callable[[Load, Callable[[int], None]], Coroutine[Any, Any, None]]  # runs one stream, and counts its steps


@dataclass
class Report:
    """Figures of all rounds, by what was measured."""

    figures: dict[str, Figures] = field(default_factory=dict)  # by model, then by name

    def add(self, model: str, **figures: float) -> None:
        """One round's."""
        for name, value in figures.items():
            self.figures.setdefault(model, {}).setdefault(name, []).append(value)

    def median(self, model: str, name: str) -> float:
        """Over the rounds."""
        return statistics.median(self.figures[model][name])

    def cell(self, model: str, name: str, digits: int = 2) -> str:
        """The median, with the lowest and the highest."""
        found = self.figures[model][name]
        return f"{statistics.median(found):.{digits}f} [{min(found):.{digits}f}-{max(found):.{digits}f}]"


def bare(bundle: Bundle, rows: int, steps: int, seconds: float) -> float:
    """Steps a second of session.run in a loop, so many steps of so many rows a run."""
    engine = Engine(bundle.path / "model.onnx", ENGINE)
    inputs = engine.example(rows)
    inputs["x"] = np.full((rows, steps, 1), 0.5, np.float32)
    inputs["lengths"][:] = steps
    names = [spec.name for spec in engine.outputs]
    for _ in range(3):
        engine.run(inputs, names)
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        engine.run(inputs, names)
        runs += 1
    return runs * rows * steps / (time.perf_counter() - started)


async def rate(stream: StreamOf, load: Load, seconds: float) -> float:
    """Steps a second of so many streams at a time, without the first moments.

    From one answer of the first stream to another one: a run of many steps takes long, and all of its answers come at
    once, so that between other instants there would be half a run too many or too few.
    """
    answered, came = 0, asyncio.Event()

    def count(steps: int) -> None:
        nonlocal answered
        answered += steps

    def count_first(steps: int) -> None:
        count(steps)
        came.set()

    async def next_answer() -> tuple[int, float]:
        came.clear()
        await came.wait()
        return answered, time.perf_counter()

    counts = [count_first] + [count] * (load.streams - 1)
    async with asyncio.TaskGroup() as group:  # a stream that fails ends the measurement
        tasks = [group.create_task(stream(load, each)) for each in counts]
        await asyncio.sleep(seconds / 4)
        before, started = await next_answer()
        await asyncio.sleep(seconds)
        after, ended = await next_answer()
        for task in tasks:
            task.cancel()
    return (after - before) / (ended - started)


def over(channel: grpc.aio.Channel, model: str) -> StreamOf:
    """A stream over a connection."""

    async def stream(load: Load, count: Callable[[int], None]) -> None:
        call: Any = channel.stream_stream(f"{SERVICE}/Track")()
        await call.write(pb.TrackRequest(model=model, return_state=load.state).SerializeToString())
        message = pb.TrackRequest(values=[0.5] * load.steps).SerializeToString()
        try:
            for _ in range(load.ahead):
                await call.write(message)
            while True:
                left = load.steps
                while left:
                    steps = len(pb.TrackResponse.FromString(await call.read()).steps)
                    count(steps)
                    left -= steps
                await call.write(message)
        finally:
            call.cancel()

    return stream


def encoded(answer: pb.TrackResponse | bytes) -> bytes:
    """As it goes out."""
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def inside(model: Any) -> StreamOf:
    """A stream in the service's own code, without a transport."""

    async def stream(load: Load, count: Callable[[int], None]) -> None:
        first = pb.TrackRequest(return_state=load.state)
        message = pb.TrackRequest(values=[0.5] * load.steps)

        async def messages() -> AsyncGenerator[pb.TrackRequest, None]:
            yield first
            while True:
                yield message

        own = Stream(model, model.pipeline, first, SeriesSettings())
        series = ahead(own.series(messages()), READ_AHEAD)
        answered = 0
        async for window in ahead(own.windows(series, Deadline()), COMPUTED_AHEAD):
            for step, answer in own.answers(window):
                encoded(answer)
                count(step - answered)
                answered = step

    return stream


async def within(folder: Path, bundle: Bundle, load: Load, seconds: float) -> float:
    """Steps a second in the service's own code."""
    settings = ModelsSettings("sequence", (folder,), bundle.name, ENGINE, BatcherSettings(max_batch=STREAMS))
    async with Models.open(settings, batched(Pipeline.of, runner_of), CollectorRegistry()) as models:
        return await rate(inside(models.find(bundle.name)), load, seconds)


def handing_out_s(bundle: Bundle) -> float:
    """Seconds for the states of all streams, each in its answer."""
    assert bundle.manifest.recurrence is not None
    width, digest = bundle.manifest.recurrence.state_width, bytes(32)
    rng = np.random.default_rng(0)
    states = [StreamState(1, rng.normal(size=(1, width)).astype(np.float32)) for _ in range(STREAMS)]
    answers = [pb.TrackResponse(steps=[pb.TrackedStep(step=1, values=[0.5])]) for _ in states]
    started = time.perf_counter()
    for _ in range(100):
        for state, answer in zip(states, answers, strict=True):
            with_field(answer, STATE, state.parts(digest))
    return (time.perf_counter() - started) / 100


async def measure_steps(report: Report, folder: Path, bundle: Bundle, service: Replica, seconds: float) -> None:
    """One round for one model and kind of message: bare, inside the service, over its port."""
    for steps in MESSAGES:
        case, window = case_of(bundle.name, steps), min(steps, WINDOW_STEPS)
        full, lone = bare(bundle, STREAMS, window, seconds), bare(bundle, 1, window, seconds / 2)
        report.add(case, step_ms=STREAMS / full * 1e3, bare=full, bare_one=lone, bare_gain=full / lone)
        load = Load(steps=steps, ahead=4 if steps == 1 else 2)
        with_state = replace(load, state=True)
        report.add(case, inside=await within(folder, bundle, with_state, seconds) / full)
        report.add(case, state=handing_out_s(bundle) * full / STREAMS / window)
        async with grpc.aio.insecure_channel(service.address, options=OPTIONS) as channel:
            stream = over(channel, bundle.name)
            one = await rate(stream, replace(load, streams=1, ahead=1), seconds)
            many = await rate(stream, load, seconds)
            report.add(case, one=one, port=many / full, gain=many / one)
            report.add(case, with_state=await rate(stream, with_state, seconds) / full)


async def measure_gateway(report: Report, gateway: Replica, seconds: float) -> None:
    """What the gateway spends on a message of Track, both ways, and on a unary call of the same size."""
    async with grpc.aio.insecure_channel(gateway.address, options=OPTIONS) as channel:

        async def unary(load: Load, count: Callable[[int], None]) -> None:
            forecast: Any = channel.unary_unary(f"{SERVICE}/Forecast")
            request = pb.ForecastRequest(model=TINY, values=[0.5]).SerializeToString()
            while True:
                await forecast(request)
                count(1)

        report.add("gateway", unary=await cpu_ms(gateway, unary, seconds))
        report.add("gateway", track=await cpu_ms(gateway, over(channel, TINY), seconds))


async def cpu_ms(gateway: Replica, stream: StreamOf, seconds: float) -> float:
    """Milliseconds of CPU that the gateway spends for each answer."""
    process, answered = psutil.Process(gateway.child.pid), 0

    async def counted(load: Load, count: Callable[[int], None]) -> None:
        def both(steps: int) -> None:
            nonlocal answered
            answered += steps
            count(steps)

        await stream(load, both)

    before = process.cpu_times()
    await rate(counted, Load(streams=16, ahead=1), seconds)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) * 1e3 / max(answered, 1)


async def measure_idle(report: Report, service: Replica, count: int) -> None:
    """Memory of streams that have taken a step and are silent."""
    process = psutil.Process(service.child.pid)
    before = process.memory_info().rss
    channels = [grpc.aio.insecure_channel(service.address, options=OPTIONS) for _ in range(4)]
    gate = asyncio.Semaphore(STREAMS)

    async def opened(number: int) -> Any:
        async with gate:
            call: Any = channels[number % 4].stream_stream(f"{SERVICE}/Track")()
            await call.write(pb.TrackRequest(model=f"bench-lstm-{HIDDEN[0]}", values=[0.5]).SerializeToString())
            await call.read()
            return call

    calls = await asyncio.gather(*(opened(number) for number in range(count)))
    after = process.memory_info().rss
    report.add("idle", streams=float(len(calls)), mib=after / 2**20, kib_each=(after - before) / 1024 / count)
    for channel in channels:
        await channel.close()


def case_of(model: str, steps: int) -> str:
    """What figures of messages of so many steps are kept under."""
    return f"{model}, {steps}"


def markdown(facts: Facts, report: Report) -> str:
    """The tables."""
    head = ("two layers of", "steps a message", "ms a step", "inside", "over its port", "with state",
            "times one stream", "bare: times one row", "state costs")  # fmt: skip
    rows = [
        (
            str(hidden), str(steps), report.cell(case, "step_ms", 1), report.cell(case, "inside"),
            report.cell(case, "port"), report.cell(case, "with_state"), report.cell(case, "gain", 1),
            report.cell(case, "bare_gain", 1), report.cell(case, "state", 3),
        )
        for hidden in HIDDEN
        for steps in MESSAGES
        for case in [case_of(f"bench-lstm-{hidden}", steps)]
    ]  # fmt: skip
    gateway = [(name, report.cell("gateway", name, 3)) for name in ("unary", "track")]
    idle = report.figures["idle"]
    return "\n\n".join(
        (
            f"`python -m tests.bench.streams`, {facts.date[:10]}, {facts.cpu}, {facts.cores} cores, commit "
            f"{facts.commit}, {facts.onnxruntime}, grpcio {facts.grpcio}, load average before "
            f"{facts.load_average[0]}; one thread for "
            "the engine. Median of the rounds, with the lowest and the highest.",
            "**64 live streams of an LSTM**, as parts of what the bare engine does in runs of 64 rows and those steps:",
            render(head, rows),
            "**The gateway's CPU**, ms for a message there and back, and for a unary call of the same size:",
            render(("what", "ms"), gateway),
            f"**{idle['streams'][-1]:.0f} idle streams** of two layers of {HIDDEN[0]}: {idle['mib'][-1]:.0f} MiB for "
            f"the whole process, {idle['kib_each'][-1]:.0f} KiB each.",
        )
    )


async def main(*, rounds: int, seconds: float, idle: int) -> None:
    """Measures, prints and writes."""
    facts, report, started = Facts.gather(Cores((0, 1), (0, 1), pinned=False)), Report(), time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="trivium-bench-") as name:
        folder = Path(name)
        say("making the bundles")
        made = [
            recurrent_bundle(
                folder / "bundles", f"bench-lstm-{hidden}", layers=2, hidden=hidden, horizon=1, max_steps=LONG
            )
            for hidden in HIDDEN
        ]
        recurrent_bundle(folder / "bundles", TINY, hidden=16, horizon=1, max_steps=LONG)
        async with Suite.open(folder) as suite:
            say("starting Consul, one sequence instance and the gateway")
            service = await suite.start(
                "sequence",
                "sequence-1",
                BUNDLES_DIR=folder / "bundles",
                DEFAULT_MODEL=TINY,
                ENGINE__THREADS=ENGINE.threads,
                LOG__CALLS="failed",
            )
            gateway = await suite.start_gateway(LOG__CALLS="failed")
            await serving(gateway.address, f"model/{TINY}")
            for number in range(1, rounds + 1):
                for bundle in made:
                    say(f"round {number}: {bundle.name}")
                    await measure_steps(report, folder / "bundles", bundle, service, seconds)
                say(f"round {number}: the gateway")
                await measure_gateway(report, gateway, seconds)
            say(f"{idle} idle streams")
            await measure_idle(report, service, idle)
    text = markdown(facts, report)
    path = results.path(facts).with_name(f"{results.path(facts).name}-streams")
    content = {"facts": asdict(facts), "figures": report.figures}
    path.with_suffix(".json").write_text(f"{json.dumps(results.finite(content), indent=1)}\n", "utf-8")
    path.with_suffix(".md").write_text(f"{text}\n", "utf-8")
    print(f"\n{text}\n\nwritten: {path}.json and .md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.streams", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    arguments = parser.parse_args()
    configure_logs(LogSettings(level="error"))
    if arguments.quick:
        asyncio.run(main(rounds=1, seconds=1.0, idle=1000))
    else:
        asyncio.run(main(rounds=3, seconds=2.0, idle=10_000))
