"""The GPU check, as far as a machine without a GPU can run it: on the CPU, beside itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, TensorSpec
from services.kit.inference.engine import CPU, CUDA, has_cuda_driver
from tests import bundles as tiny
from tests.gpu_check.__main__ import main
from tests.gpu_check.check import check, difference, problems
from tests.gpu_check.inputs import random_inputs
from tests.gpu_check.placement import Traced, nodes, traced_run

VISION = ("vision", "bundles")


def test_a_bundle_agrees_with_itself_and_is_timed_at_both_batch_sizes(tmp_path: Path) -> None:
    checked = check(tiny.colours(tmp_path), "cpu", seconds=0.01)
    assert checked.problems == ()
    assert checked.exact_error == checked.served_error == 0.0
    assert [speed.rows for speed in checked.speeds["cpu"]] == [1, 16]
    assert all(speed.rows_per_s > 0 and speed.p50_ms > 0 for speed in checked.speeds["cpu"])
    assert checked.nodes > 0


def test_every_bundle_of_every_service_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.colours(tmp_path.joinpath(*VISION))
    tiny.fixed(tmp_path / "sequence" / "bundles", service="sequence")
    assert main(tmp_path, "cpu", 0.01) == 0
    printed = capsys.readouterr().out
    assert "colours/1" in printed
    assert "fixed/1" in printed


def test_a_damaged_bundle_fails_the_check_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tiny.colours(tmp_path.joinpath(*VISION))
    with (bundle.path / bundles.MODEL).open("ab") as model:
        model.write(b"x")
    assert main(tmp_path, "cpu", 0.01) == 1
    assert "failed: colours/1" in capsys.readouterr().out


def test_services_without_bundles_are_no_success(tmp_path: Path) -> None:
    assert main(tmp_path, "cpu", 0.01) == 1


@pytest.mark.skipif(has_cuda_driver(), reason="this machine has a GPU")
def test_a_machine_without_gpu_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tmp_path, "cuda", 0.01) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("no GPU here")


def test_the_trace_names_the_provider_of_each_node(tmp_path: Path) -> None:
    bundle = tiny.add(tmp_path)
    inputs, known = bundles.known_answers(bundle)
    traced = traced_run(bundle.path / bundles.MODEL, "cpu", inputs, sorted(known))
    assert ("Add", CPU) in traced.nodes
    assert difference(known, traced.outputs) == 0.0
    assert traced.elsewhere(CPU) == []
    assert "Add" in traced.elsewhere(CUDA)


def test_only_kernel_times_count_as_nodes() -> None:
    args = {"op_name": "Conv", "provider": CUDA}
    trace: list[dict[str, Any]] = [
        {"cat": "Session", "name": "model_run"},
        {"cat": "Node", "name": "conv_fence_before", "args": {"op_name": "Conv"}},
        {"cat": "Node", "name": "conv_kernel_time", "args": args},
    ]
    assert nodes(trace) == (("Conv", CUDA),)


def test_heavy_operators_on_the_cpu_are_a_problem_and_shapes_are_none() -> None:
    on_gpu = Traced({}, (("Conv", CUDA), ("Shape", CPU)))
    assert problems(on_gpu, CUDA, 1e-6, 1e-3) == []
    fallen_back = Traced({}, (("Conv", CPU), ("Relu", CUDA)))
    assert problems(fallen_back, CUDA, 1e-6, 1e-3) == [f"Conv did not run on {CUDA}"]
    assert f"no node ran on {CUDA}" in problems(Traced({}, (("Add", CPU),)), CUDA, 0, 0)


def test_errors_above_their_tolerances_are_problems() -> None:
    traced = Traced({}, (("Conv", CUDA),))
    assert len(problems(traced, CUDA, 1e-2, 1e-1)) == 2
    assert len(problems(traced, CUDA, float("inf"), 0.0)) == 1


def test_differences_are_relative_to_the_largest_number_of_an_output() -> None:
    expected = {"y": np.array([100.0, 1.0], np.float32)}
    assert difference(expected, {"y": np.array([100.0, 2.0], np.float32)}) == pytest.approx(0.01)
    assert difference(expected, {"y": np.array([100.0, np.nan], np.float32)}) == float("inf")
    assert difference(expected, {"y": np.array([100.0], np.float32)}) == float("inf")
    assert difference({"i": np.array([1])}, {"i": np.array([2])}) == 1.0


def test_random_inputs_have_the_examples_dtypes_and_the_wanted_rows() -> None:
    examples: dict[str, Array] = {
        "image": np.zeros((2, 4, 4, 3), np.uint8),
        "tokens": np.array([[3, 5], [7, 9]], np.int64),
        "x": np.array([[1.0], [3.0]], np.float32),
        "fixed": np.ones((2, 3), np.float32),
    }
    specs = {name: TensorSpec(name, "", (-1, *array.shape[1:])) for name, array in examples.items()}
    specs["fixed"] = TensorSpec("fixed", "", (2, 3))
    inputs = random_inputs(examples, specs, 8, np.random.default_rng(0))
    assert {name: len(array) for name, array in inputs.items()} == {"image": 8, "tokens": 8, "x": 8, "fixed": 2}
    assert all(inputs[name].dtype == examples[name].dtype for name in examples)
    assert inputs["image"].max() > 0
    assert set(inputs["tokens"].flat) <= {3, 5, 7, 9}
