import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.kit.errors import StartupError
from services.kit.inference import engine as engines
from services.kit.inference.engine import Engine, EngineSettings, chosen_device
from services.kit.inference.manifest import TensorSpec
from tests import bundles as tiny

CPU = EngineSettings(device="cpu", threads=1)


def opened(folder: Path, make: Callable[..., Any], **arguments: Any) -> Engine:
    return Engine(make(folder, **arguments).path / "model.onnx", CPU)


def test_it_says_what_the_graph_takes_and_gives(tmp_path: Path) -> None:
    engine = opened(tmp_path, tiny.add, datatype="FP16", width=3)
    assert engine.inputs == (TensorSpec("a", "FP16", (-1, 3)), TensorSpec("b", "FP16", (-1, 3)))
    assert [spec.name for spec in engine.outputs] == ["sum", "difference"]
    assert (engine.device, engine.provider, engine.gpus) == ("cpu", "CPUExecutionProvider", ())


def test_outputs_come_in_the_order_asked_for(tmp_path: Path) -> None:
    engine = opened(tmp_path, tiny.add, width=1)
    difference, total = engine.run(
        {"a": np.array([[5]], np.int32), "b": np.array([[2]], np.int32)}, ["difference", "sum"]
    )
    assert (difference.tolist(), total.tolist()) == ([[3]], [[7]])


def test_examples_fill_free_dimensions(tmp_path: Path) -> None:
    assert opened(tmp_path, tiny.identity, width=-1).example(5)["x"].shape == (5, 1)
    assert opened(tmp_path, tiny.fixed).example(5)["x"].shape == (2, 3)
    assert opened(tmp_path, tiny.identity, name="words", datatype="BYTES").example(1)["x"].tolist() == [[""] * 4]


def test_bound_runs_give_the_same_bits_and_answers_of_their_own(tmp_path: Path) -> None:
    """What runs on a GPU, on the CPU: inputs and outputs by binding."""
    engine = opened(tmp_path, tiny.add, datatype="FP32", width=3)
    plain = [engine.run(inputs(rows), ["sum", "difference"]) for rows in (2, 5)]
    engine._binding = engine._session.io_binding()
    bound = [engine.run(inputs(rows), ["sum", "difference"]) for rows in (2, 5)]
    assert [[array.tobytes() for array in run] for run in bound] == [
        [array.tobytes() for array in run] for run in plain
    ]


def inputs(rows: int) -> dict[str, Any]:
    values = np.random.default_rng(rows).random((3, rows), np.float32)
    return {"a": values.T, "b": values.T * 3}  # not contiguous


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(StartupError, match=r"model\.onnx"):
        Engine(tmp_path / "model.onnx", CPU)


@pytest.mark.parametrize(("driver", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_means_cuda_where_its_driver_loads(monkeypatch: pytest.MonkeyPatch, driver: bool, device: str) -> None:
    monkeypatch.setattr(engines, "has_cuda_driver", lambda: driver)
    assert chosen_device("auto") == device
    assert chosen_device("cpu") == "cpu"


def test_a_session_that_did_not_get_cuda_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, on_cpu = tiny.add(tmp_path).path / "model.onnx", engines._session
    monkeypatch.setattr(engines, "has_cuda_driver", lambda: True)
    monkeypatch.setattr(engines, "_session", lambda path, device, *rest, **others: on_cpu(path, "cpu", *rest, **others))
    with pytest.raises(StartupError, match="got CPUExecutionProvider instead of CUDAExecutionProvider") as raised:
        Engine(path, EngineSettings(device="auto"))
    assert "gpu.lock" in raised.value.hint


SHARING = """
import os, sys
from pathlib import Path
from services.kit.inference.engine import Engine, EngineSettings, share_threads
from tests import bundles

settings = EngineSettings(device="cpu", threads=3, spinning=sys.argv[2] == "spinning")
folder, threads = Path(sys.argv[1]), lambda: len(os.listdir("/proc/self/task"))
paths = [bundles.add(folder, name, datatype="FP32", width=1).path / "model.onnx" for name in ("a", "b", "c")]
before = threads()
share_threads(settings)
engines = [Engine(path, settings) for path in paths]
more, inputs = threads() - before, {"a": engines[0].example(1)["a"] + 5, "b": engines[0].example(1)["b"] + 2}
print(more, *(engine.run(inputs, ["sum"])[0].item() for engine in engines))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the kernel does not list threads as Linux does")
@pytest.mark.parametrize(("waiting", "threads"), [("spinning", 2), ("asleep", 6)])
def test_sessions_share_threads_unless_these_sleep_between_runs(tmp_path: Path, waiting: str, threads: int) -> None:
    command = [sys.executable, "-c", SHARING, str(tmp_path), waiting]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()[-1]
    assert said.split() == [str(threads), "7.0", "7.0", "7.0"]


def test_the_runtime_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    """It would begin with an identifier of the machine in HOME."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment = {**inherited, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", "import services.kit.inference.engine"]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert list(tmp_path.rglob("*")) == []
