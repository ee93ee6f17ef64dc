"""`python -m tests.bench [--quick] [--model NAME]`: measures and writes tests/bench/results."""

import argparse
import asyncio
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from services.kit import settings as kit_settings
from services.kit.inference import bundle as bundles
from services.kit.inference.engine import Engine, EngineSettings
from services.kit.telemetry import LogSettings, configure_logs
from services.vision.decoder import Decoder
from services.vision.settings import VisionSettings
from tests.bench import images, plot, report, resnet, results
from tests.bench.cores import Cores
from tests.bench.effort import FULL, QUICK, Effort
from tests.bench.facts import ROOT, Facts
from tests.bench.rounds import Rounds
from tests.bench.stand import Stand
from tests.bench.summary import summarise
from tests.bench.workload import Subject, subject

DIGITS = "digits-cnn"
MODELS = (DIGITS, resnet.NAME)
Settings = Mapping[str, Mapping[str, str]]


async def main(effort: Effort, models: list[str], command: str) -> int:
    """The exit code: 1 if calls failed that had no reason to."""
    cores = Cores.split()
    cores.pin_generator()
    facts = Facts.gather(cores)
    settings = told(os.environ, cores)
    engine = engine_settings(settings)
    with tempfile.TemporaryDirectory(prefix="trivium-bench-") as name:
        folder = Path(name)
        started = time.monotonic()
        _say(started, f"preparing {', '.join(models)}")
        (folder / "bundles").mkdir()
        subjects = await _subjects(models, folder / "bundles", engine)
        _say(started, "starting Consul, one vision instance and the gateway")
        async with Stand.open(folder, cores, folder / "bundles", settings) as stand:
            rounds = Rounds(stand, effort, subjects, engine)
            async for point in rounds.run():
                _say(started, f"round {point.round}: {report.progress(point)}")
    summary = summarise(rounds.points, rounds.bare)
    text = report.markdown(facts, summary, command, settings)
    path = results.path(facts)
    results.write_json(path.with_suffix(".json"), facts, summary, rounds.points, rounds.bare, settings)
    path.with_suffix(".md").write_text(f"{text}\n", "utf-8")
    plot.draw(path.with_suffix(".png"), facts, summary)
    print(f"\n{text}\n\nwritten: {path.relative_to(ROOT)}.json, .md and .png")
    if not summary.sound:
        print("calls failed below the capacity, or work was done for callers who had left: see the tables")
    return 0 if summary.sound else 1


def told(environ: Mapping[str, str], cores: Cores) -> Settings:
    """Settings of the processes: TRIVIUM_VISION__* and TRIVIUM_GATEWAY__* of the environment, above the run's own."""
    threads = {"ENGINE__THREADS": str(len(cores.measured)), "DECODER__THREADS": str(len(cores.measured))}
    own: dict[str, dict[str, str]] = {"vision": {"ENGINE__DEVICE": "cpu", **threads}, "gateway": {}}
    for component, values in own.items():
        prefix = f"TRIVIUM_{component.upper()}__"
        values |= {key.removeprefix(prefix): value for key, value in environ.items() if key.startswith(prefix)}
    return own


def engine_settings(settings: Settings) -> EngineSettings:
    """What the service will read from these settings."""
    environ = {f"TRIVIUM_VISION__{key}": value for key, value in settings["vision"].items()}
    return kit_settings.load(VisionSettings, "vision", environ).engine


async def _subjects(models: list[str], folder: Path, engine: EngineSettings) -> list[Subject]:
    found = []
    async with Decoder.open(VisionSettings().decoder) as decoder:
        if DIGITS in models:
            digits = bundles.discover([ROOT / "services/vision/bundles"], "vision")
            bundle = max((b for b in digits if b.name == DIGITS), key=lambda b: b.version)
            found.append(await subject(bundle, images.digits(), Engine(bundle.path / "model.onnx", engine), decoder))
        if resnet.NAME in models:
            files = images.scenes()
            bundle = resnet.write(folder, images.pixels(files))
            found.append(await subject(bundle, files, Engine(bundle.path / "model.onnx", engine), decoder))
    return found


def _say(started: float, text: str) -> None:
    print(f"{time.monotonic() - started:7.1f} s  {text}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: about a minute")
    parser.add_argument("--model", choices=MODELS, action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    configure_logs(LogSettings(level="error"))
    command = shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]])
    sys.exit(asyncio.run(main(QUICK if arguments.quick else FULL, arguments.model or list(MODELS), command)))
