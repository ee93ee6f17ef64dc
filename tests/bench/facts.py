"""Facts: the machine and the code that the figures belong to."""

import datetime
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from tests.bench.cores import Cores

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Facts:
    """What somebody who repeats the measurement must know."""

    date: str  # UTC, ISO 8601
    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    onnxruntime: str
    grpcio: str
    commit: str  # with "+changes" if the working tree had some
    load_average: tuple[float, ...]  # 1, 5 and 15 minutes before the start: what else ran here
    measured_cores: tuple[int, ...]
    generator_cores: tuple[int, ...]
    pinned: bool

    @classmethod
    def gather(cls, cores: Cores) -> "Facts":
        """Of this machine, now."""
        return cls(
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            cpu=_cpu(),
            cores=os.cpu_count() or 1,
            memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
            system=platform.platform(),
            python=platform.python_version(),
            onnxruntime=_onnxruntime(),
            grpcio=metadata.version("grpcio"),
            commit=_commit(),
            load_average=tuple(round(value, 2) for value in psutil.getloadavg()),
            measured_cores=cores.measured,
            generator_cores=cores.generator,
            pinned=cores.pinned,
        )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _onnxruntime() -> str:
    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _commit() -> str:
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return f"{head}+changes" if _git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True, text=True).stdout.strip()
