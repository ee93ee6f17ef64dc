"""Engine: one ONNX Runtime session, arrays to arrays, on the device that was asked for."""

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import structlog

from services.kit.errors import SettingsError, StartupError
from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.datatypes import NUMPY, OF_ONNX
from services.kit.inference.huge_pages import join_pages
from services.kit.inference.recording import GPU
from services.kit.settings import setting

Device = Literal["auto", "cuda", "cpu"]

BFLOAT16 = 16  # ONNX's number of the type; numpy has its bits as uint16
UNRECORDED = -1  # no CUDA graph's number
ERRORS = 3  # of ONNX Runtime's severities: no warnings
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_shared = threading.Event()  # whether all sessions of this process compute with the same threads


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where models run, and on how many threads."""

    device: Device = "auto"  # auto: CUDA where the machine has a driver, else CPU
    cuda_device: int = setting(0, low=0)  # which GPU
    tf32: bool = False  # FP32 products on a GPU keep 10 bits of each factor: faster, and a recurrent net drifts
    threads: int = setting(0, low=0)  # that compute on the CPU; 0: one for each core
    spinning: bool = True  # threads wait busily between parts of a run: faster, unless processes share cores


class Engine:
    """A loaded model. `run` is for one thread at a time: the batcher's.

    Args:
        path: of the ONNX file.
        settings: the device and its threads.
        stream: of CUDA, on which runs on a GPU follow one another, and may be recorded as CUDA graphs: only for models
            without branches, all of which the GPU can do. None: one of its own, and no run is recorded. (On a stream
            from elsewhere, a session that records nothing makes ONNX Runtime 1.31 free memory where CUDA forbids it.)

    Raises:
        StartupError: the file is no model that this runtime can load, or the session did not get the device.
    """

    def __init__(self, path: Path, settings: EngineSettings, *, stream: int | None = None) -> None:
        self.device = chosen_device(settings.device)
        started = time.monotonic()
        self.recorded = stream is not None
        wishes = {"enable_cuda_graph": "1", "user_compute_stream": str(stream)} if self.recorded else {}
        self._session: Any = _session(path, self.device, settings, wishes)
        self.gpus = (settings.cuda_device,) if self.device == "cuda" else ()
        self.provider = self._session.get_providers()[0]
        if self.device == "cuda" and self.provider != CUDA:
            raise StartupError(
                f"{path}: the session got {self.provider} instead of {CUDA}",
                hint="install requirements/gpu.lock (CUDA and cuDNN), or set ENGINE__DEVICE=cpu",
            )
        joined = join_pages() if self.device == "cpu" else 0
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._bfloat16 = frozenset(spec.name for spec in self.inputs if spec.datatype == "BF16")
        # Strings live on the CPU alone and cannot be bound.
        strings = any(spec.datatype == "BYTES" for spec in (*self.inputs, *self.outputs))
        self._binding: Any = self._session.io_binding() if self.device == "cuda" and not strings else None
        structlog.get_logger().info(
            "model_loaded",
            path=str(path),
            provider=self.provider,
            seconds=round(time.monotonic() - started, 3),
            huge_pages_mib=joined >> 20,
        )

    @property
    def session(self) -> Any:
        """ONNX Runtime's session, for runs over memory of one's own."""
        return self._session

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The outputs named, in that order, for inputs of the graph's dtypes and shapes. They are copies, never views.

        Raises whatever the runtime raises for inputs that the graph cannot compute.
        """
        if self.device == "cpu":
            return self._run(inputs, outputs)
        with GPU.using():
            return self._run(inputs, outputs)

    def close(self) -> None:
        """Gives back what it has on a GPU; it is not run after that."""
        if self.device == "cuda":
            with GPU.using():
                self._binding = self._session = None
                gc.collect()  # what has it in its hands

    def _run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        if self._binding is None:
            results: list[Array] = self._session.run(list(outputs), inputs)
            return results
        return self._run_bound(self._binding, inputs, outputs)

    def _run_bound(self, binding: Any, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for name, array in inputs.items():
            array = np.require(array, requirements="C")
            if name in self._bfloat16:
                bits = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
                binding.bind_ortvalue_input(name, bits)
            else:
                binding.bind_cpu_input(name, array)
        for name in outputs:
            binding.bind_output(name, "cpu")
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding, run_options(UNRECORDED) if self.recorded else None)
        binding.synchronize_outputs()
        results: list[Array] = binding.copy_outputs_to_cpu()
        return results

    def example(self, rows: int) -> dict[str, Array]:
        """Zeros or empty strings for every input: `rows` in a free dimension 0, 1 in other free ones."""
        return {spec.name: _blank(spec, rows) for spec in self.inputs}


def _blank(spec: TensorSpec, rows: int) -> Array:
    shape = [size if size >= 0 else 1 if axis else rows for axis, size in enumerate(spec.shape)]
    return np.full(shape, "" if spec.datatype == "BYTES" else 0, NUMPY[spec.datatype])


def share_threads(settings: EngineSettings) -> None:
    """Has all sessions of this process compute with the same threads; called before there is a session.

    Threads of a session's own still wait busily when its run has ended, and take cores from the next run of another
    one. ONNX Runtime cannot tell shared threads not to: where they shall not, each session has its own.
    """
    if settings.spinning and not _shared.is_set():
        ort.set_global_thread_pool_sizes(settings.threads, 1)
        _shared.set()


def chosen_device(device: Device) -> Literal["cuda", "cpu"]:
    """What `auto` means on this machine: cuda if its driver can be loaded, else cpu."""
    if device == "auto":
        return "cuda" if has_cuda_driver() else "cpu"
    if device == "cuda" and not has_cuda_driver():
        raise SettingsError(
            "ENGINE__DEVICE is cuda, and libcuda.so.1 cannot be loaded",
            hint="install the NVIDIA driver (in a container: the NVIDIA runtime), or set ENGINE__DEVICE=cpu",
        )
    return device


def run_options(number: int, *, waits: bool = True) -> Any:
    """ONNX Runtime's for a run that is recorded as the CUDA graph of this number, or replayed; UNRECORDED: neither.

    Args:
        waits: whether the run returns when it has ended; else, when it has been begun on its stream.
    """
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    options.add_run_config_entry("disable_synchronize_execution_providers", str(int(not waits)))
    return options


def has_cuda_driver() -> bool:
    """Whether NVIDIA's driver library loads and sees a device."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        return False


def _session(path: Path, device: Literal["cuda", "cpu"], settings: EngineSettings, wishes: Mapping[str, str]) -> Any:
    ort.set_default_logger_severity(ERRORS)  # a session for CUDA warns of what is as it should be
    options = ort.SessionOptions()
    options.use_per_session_threads = not _shared.is_set()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    providers: list[Any] = [CPU]
    if device == "cuda":
        ort.preload_dlls()
        own = {
            "device_id": str(settings.cuda_device),
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": str(int(settings.tf32)),
        }
        providers = [(CUDA, own | dict(wishes)), CPU]
    try:
        with GPU.using() if device == "cuda" else contextlib.nullcontext():
            return ort.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's own classes share no other base
        raise StartupError(
            f"{path}: {error}", hint=f"export it for ONNX Runtime {ort.__version__}, or take the bundle away"
        ) from error


def _spec(node: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(name=node.name, datatype=OF_ONNX.get(node.type, node.type), shape=shape)
