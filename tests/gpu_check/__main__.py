"""`python -m tests.gpu_check [--seconds S] [--device cpu]`: every bundle of every service on the GPU beside the CPU.

`--bundles DIR` adds others of the language service, such as `trivium export language --precision fp16` makes; with
`--alone` these alone are looked at, and not on the CPU, which takes long for a large one.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from services.kit.errors import StartupError
from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from services.kit.inference.engine import has_cuda_driver
from services.kit.telemetry import LogSettings, configure_logs
from tests.bench.table import render
from tests.gpu_check import gpu, texts
from tests.gpu_check.check import EXACT_TOLERANCE, SERVED_TOLERANCE, Checked, check
from tests.gpu_check.placement import Device

RUNS = 40  # of a step that is timed
SERVICES = Path(__file__).resolve().parents[2] / "services"


def main(services: Path, device: Device, seconds: float, others: Sequence[Path] = (), *, alone: bool = False) -> int:
    """The exit code: 1 if a bundle cannot be opened on the device or computes something else there."""
    if device == "cuda" and not has_cuda_driver():
        print("no GPU here (libcuda.so.1 does not load, or sees no device): nothing was checked")
        return 0
    print(f"{gpu.describe() if device == 'cuda' else 'the CPU, beside itself'}; onnxruntime {_onnxruntime()}")
    found, failed = bundles.discover(others, "language"), list[str]()
    found = found if alone else [*all_bundles(services), *found]
    checked, written = [], []
    for bundle in found:
        generation = bundle.manifest.generation
        try:
            if generation is None:
                checked.append(check(bundle, device, seconds))
            else:
                written.append(texts.check(bundle, generation, device, RUNS, beside=not alone))
        except StartupError as error:
            failed.append(f"{bundle.name}/{bundle.version}: {error}\n  hint: {error.hint}")
    if checked:
        print(tables(checked, device))
    if written:
        print(tables_of_texts(written, device))
    failed += [f"{one.bundle}: {problem}" for one in checked for problem in one.problems]
    failed += [f"{one.bundle}: {problem}" for one in written for problem in one.problems]
    for line in failed:
        print(f"failed: {line}")
    if not found:
        print(f"failed: there are no bundles in {services}/*/bundles")
    return 1 if failed or not found else 0


def all_bundles(services: Path) -> list[Bundle]:
    """The bundles of every service, by service, name and version."""
    folders = sorted(services.glob("*/bundles"))
    return [bundle for folder in folders for bundle in bundles.discover([folder], folder.parent.name)]


def tables(checked: Sequence[Checked], device: Device) -> str:
    """Parity and speed."""
    parity = [
        [
            one.bundle,
            str(one.nodes),
            ", ".join(one.elsewhere) or "none",
            f"{one.exact_error:.1e}",
            f"{one.served_error:.1e}",
            "; ".join(one.problems) or "ok",
        ]
        for one in checked
    ]
    speeds = [
        [one.bundle, name, str(speed.rows), f"{speed.p50_ms:.3f}", f"{speed.rows_per_s:.0f}"]
        for one in checked
        for name, measured in one.speeds.items()
        for speed in measured
    ]
    exact, served = f"error, TF32 off (<= {EXACT_TOLERANCE:.0e})", f"error as served (<= {SERVED_TOLERANCE:.0e})"
    return "\n\n".join(
        [
            "Errors are the largest difference from the CPU's answers to random inputs, relative to the largest number "
            "of the output; known answers were compared before.",
            render(["bundle", f"nodes on {device}", "elsewhere", exact, served, "result"], parity),
            "A run from host memory to host memory (on the GPU with IOBinding, copies included):",
            render(["bundle", "device", "batch", "p50 ms", "rows/s"], speeds),
        ]
    )


def tables_of_texts(checked: Sequence[texts.Checked], device: Device) -> str:
    """How texts change, and how long a step takes."""
    changes = [
        [
            f"{one.bundle} {one.precision}",
            str(one.nodes or "-"),
            ", ".join(one.elsewhere) or "none",
            *(str(found or "-") for found in (one.from_cpu, one.drawn_from_cpu)),
            *map(str, (one.alone, one.resumed, one.drawn_resumed)),
            "; ".join(one.problems) or "ok",
        ]
        for one in checked
    ]
    steps = [
        [f"{one.bundle} {one.precision}", name, *(f"{taken[rows]:.3f}" for rows in texts.ROWS)]
        for one in checked
        for name, taken in one.steps_ms.items()
    ]
    columns = ["cpu, greedy", "cpu, drawn", "alone, greedy", "cut, greedy", "cut, drawn"]
    return "\n\n".join(
        [
            f"\nTexts on {device}, {texts.TEXTS} side by side: how many get another token than on the CPU, or alone,\n"
            "or when they are cut anywhere and go on; of so many tokens to there (largest difference of a logprob)",
            render(["bundle", f"nodes on {device}", "elsewhere", *columns, "result"], changes),
            "A run that takes every text one token further, in ms (median):",
            render(["bundle", "device", *(f"{rows} texts" for rows in texts.ROWS)], steps),
        ]
    )


def _onnxruntime() -> str:
    return next((metadata.version(n) for n in ("onnxruntime-gpu", "onnxruntime") if _installed(n)), "unknown")


def _installed(package: str) -> bool:
    return bool(list(metadata.distributions(name=package)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_check", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement of speed")
    parser.add_argument("--bundles", type=Path, action="append", default=[], help="others, of the language service")
    parser.add_argument("--alone", action="store_true", help="look at those of --bundles only, and not on the CPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: try the check itself")
    arguments = parser.parse_args()
    configure_logs(LogSettings(level="error"))
    given = (arguments.device, arguments.seconds, arguments.bundles)
    sys.exit(main(SERVICES, *given, alone=arguments.alone))
