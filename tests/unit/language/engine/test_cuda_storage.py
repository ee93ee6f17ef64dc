"""Memory on a GPU, as far as a machine without one can run it: over a stand-in for CUDA's runtime."""

import gc
import sys
import types
from functools import partial
from typing import Any

import numpy as np
import pytest

from services.kit.errors import StartupError
from services.language.engine import cuda_storage
from services.language.engine.cuda import Cuda, CudaError
from services.language.engine.cuda_storage import CudaStorage
from services.language.engine.storage import HostStorage, Stretch
from tests.unit.language.engine.cuda import Runtime

FLOAT = np.dtype(np.float32)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


def storage(runtime: Runtime, blocks: int = 3, numbers: int = 40) -> CudaStorage:
    return CudaStorage(Cuda(runtime, 0), blocks, numbers, FLOAT)


def test_it_is_zeros_at_first(runtime: Runtime) -> None:
    assert not storage(runtime).array().any()


@pytest.mark.parametrize("pitch", [cuda_storage.LONGEST_PITCH, 8])
def test_what_is_copied_is_what_the_host_copies(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, pitch: int) -> None:
    monkeypatch.setattr(cuda_storage, "LONGEST_PITCH", pitch)
    values = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
    there, here = storage(runtime), HostStorage(3, 40, FLOAT)
    other_there, other_here = there.like(25), here.like(25)
    for one in (there, here):
        one.fill(values)
    apart, overlapping = [Stretch(2, 30, 5), Stretch(20, 0, 5)], [Stretch(0, 5, 30), Stretch(9, 9, 1)]
    for stretches in (apart, [Stretch(5, 0, 20)], overlapping, [Stretch(40, 40, 0)]):
        there.copy(there, stretches)
        here.copy(here, stretches)
        assert np.array_equal(there.array(), here.array())
    for source, target in ((there, other_there), (here, other_here)):
        target.copy(source, [Stretch(0, 15, 25)])  # type: ignore[arg-type]
    assert np.array_equal(other_there.array(), other_here.array())
    assert other_there.array().any()


def test_memory_is_given_back(runtime: Runtime) -> None:
    first = storage(runtime)
    first.copy(first, [Stretch(1, 0, 20)])
    assert len(runtime.allocated) == 1
    del first
    gc.collect()
    assert runtime.allocated == {}


def test_a_gpu_that_is_full_says_so(runtime: Runtime) -> None:
    runtime.most = 100
    with pytest.raises(CudaError, match=r"cudaMalloc: 2"):
        storage(runtime)


def test_another_gpu_is_asked_for_by_its_number(runtime: Runtime) -> None:
    with pytest.raises(CudaError, match=r"cudaSetDevice: 101"):
        partial(CudaStorage, Cuda(runtime, 3))(1, 1, FLOAT)


def test_bindings_that_are_not_installed_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(StartupError, match="cuda-bindings") as raised:
        Cuda.open(0)
    assert "gpu.lock" in raised.value.hint


def test_a_gpu_that_is_not_there_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    bindings: Any = types.ModuleType("cuda.bindings")
    bindings.runtime = Runtime()
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    assert Cuda.open(0).device == 0
    with pytest.raises(StartupError, match=r"GPU 3: cudaSetDevice: 101") as raised:
        Cuda.open(3)
    assert "ENGINE__CUDA_DEVICE" in raised.value.hint


def test_memory_is_given_back_at_once_where_somebody_says_so(runtime: Runtime) -> None:
    first = storage(runtime)
    first.close()
    assert runtime.allocated == {}
    del first
    gc.collect()
