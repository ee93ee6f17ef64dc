"""Check: one bundle on the GPU beside the CPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle
from services.kit.inference.engine import CPU, CUDA, Engine, EngineSettings
from services.kit.inference.verification import TOLERANCE, verified_engine
from tests.gpu_check import speed
from tests.gpu_check.inputs import random_inputs
from tests.gpu_check.placement import HEAVY, Device, Traced, traced_run
from tests.gpu_check.speed import Speed

PROVIDER = {"cuda": CUDA, "cpu": CPU}

# Largest difference from the CPU, relative to the largest number of that output. Both sum in FP32, in another order.
EXACT_TOLERANCE = 1e-3
SERVED_TOLERANCE = TOLERANCE["cuda"]  # with the service's own settings
ROWS = 32
SEED = 32


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found; `problems` is empty if all is well."""

    bundle: str
    nodes: int  # that ran on the device
    elsewhere: tuple[str, ...]  # operators that did not
    exact_error: float  # without TF32
    served_error: float
    speeds: Mapping[str, tuple[Speed, ...]]  # by device, for batch 1 and the largest one
    problems: tuple[str, ...]


def check(bundle: Bundle, device: Device, seconds: float) -> Checked:
    """Compares the bundle on `device` with the CPU and times both.

    Raises:
        StartupError: no session on the device, or known answers that it does not give.
    """
    engine, _ = verified_engine(bundle, EngineSettings(device=device))
    cpu, _ = verified_engine(bundle, EngineSettings(device="cpu"))
    examples, known = bundles.known_answers(bundle)
    outputs = sorted(known)
    sizes = _sizes(bundle)
    batches = {rows: _batch(cpu, examples, rows) for rows in sizes}
    expected = dict(zip(outputs, cpu.run(batches[sizes[-1]], outputs), strict=True))
    served = dict(zip(outputs, engine.run(batches[sizes[-1]], outputs), strict=True))
    traced = traced_run(bundle.path / bundles.MODEL, device, batches[sizes[-1]], outputs)
    exact_error, served_error = difference(expected, traced.outputs), difference(expected, served)
    provider = PROVIDER[device]
    return Checked(
        bundle=f"{bundle.name}/{bundle.version}",
        nodes=sum(ran_on == provider for _, ran_on in traced.nodes),
        elsewhere=tuple(traced.elsewhere(provider)),
        exact_error=exact_error,
        served_error=served_error,
        speeds={
            name: tuple(speed.measure(one, batches[rows], outputs, rows, seconds) for rows in sizes)
            for name, one in {device: engine, "cpu": cpu}.items()
        },
        problems=tuple(problems(traced, provider, exact_error, served_error)),
    )


def problems(traced: Traced, provider: str, exact_error: float, served_error: float) -> list[str]:
    """What is not as it must be, in words."""
    found = []
    if not any(ran_on == provider for _, ran_on in traced.nodes):
        found.append(f"no node ran on {provider}")
    if heavy := HEAVY.intersection(traced.elsewhere(provider)):
        found.append(f"{', '.join(sorted(heavy))} did not run on {provider}")
    if not exact_error <= EXACT_TOLERANCE:
        found.append(f"without TF32 it differs from the CPU by {exact_error:.1e}, tolerance {EXACT_TOLERANCE:.0e}")
    if not served_error <= SERVED_TOLERANCE:
        found.append(f"as served it differs from the CPU by {served_error:.1e}, tolerance {SERVED_TOLERANCE:.0e}")
    return found


def difference(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> float:
    """The largest |actual - expected| of any output, relative to the largest |expected| of that output.

    Other dtypes than floats count as 0 where equal and 1 where not; a shape of its own or a nan is infinitely far.
    """
    return max((_difference(wanted, actual[name]) for name, wanted in expected.items()), default=0.0)


def _difference(wanted: Array, got: Array) -> float:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return float("inf")
    if wanted.dtype.kind != "f":
        return float(not np.array_equal(got, wanted))
    gap = np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0)
    scale = np.abs(wanted.astype(np.float64)).max(initial=0.0) or 1.0
    return float(gap / scale) if np.isfinite(gap) else float("inf")


def _sizes(bundle: Bundle) -> Sequence[int]:
    """Batch 1 and the largest one; a bundle without a batch dimension has one size."""
    return sorted({1, min(bundle.manifest.max_batch, ROWS)}) if bundle.manifest.max_batch else [1]


def _batch(engine: Engine, examples: Mapping[str, Array], rows: int) -> dict[str, Array]:
    specs = {spec.name: spec for spec in engine.inputs}
    return random_inputs(examples, specs, rows, np.random.default_rng(SEED))
