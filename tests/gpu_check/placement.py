"""Placement: a session without TF32 that tells on which provider every node of the graph ran."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from services.kit.inference.bundle import Array
from services.kit.inference.engine import CPU, CUDA

Device = Literal["cuda", "cpu"]

# Operators that are the point of a GPU; sizes and indices (Shape, Gather of a shape, ...) may stay on the CPU.
HEAVY = frozenset(
    {"Attention", "Conv", "ConvTranspose", "Gemm", "GRU", "GroupQueryAttention", "LSTM", "MatMul", "RNN", "FusedConv"}
)


@dataclass(frozen=True, slots=True)
class Traced:
    """One run: its outputs, and its nodes as (operator, provider)."""

    outputs: dict[str, Array]
    nodes: tuple[tuple[str, str], ...]

    def elsewhere(self, provider: str) -> list[str]:
        """The operators that did not run on `provider`."""
        return sorted({operator for operator, ran_on in self.nodes if ran_on != provider})


def traced_run(path: Path, device: Device, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Traced:
    """Runs the model once in plain FP32: TF32, CUDA's default since Ampere, keeps 10 bits of a factor and is off."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = ort.InferenceSession(path, options, providers=_providers(device))
        arrays = session.run(list(outputs), dict(inputs))
        trace = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return Traced(dict(zip(outputs, arrays, strict=True)), nodes(trace))


def nodes(trace: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """(operator, provider) of every node in onnxruntime's profile."""
    events = (event for event in trace if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"))
    return tuple((event["args"]["op_name"], event["args"]["provider"]) for event in events)


def _providers(device: Device) -> list[Any]:
    if device == "cpu":
        return [CPU]
    ort.preload_dlls()
    return [(CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}), CPU]
