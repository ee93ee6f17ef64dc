"""What is there comes into huge pages, what is not there is left alone, and a kernel without them is no failure."""

import ctypes
import errno
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from services.kit.inference import huge_pages
from services.kit.inference.bundle import Array
from services.kit.inference.huge_pages import join_pages

COUNT = 8  # huge pages of what is looked at
SMAPS = Path("/proc/self/smaps")


@pytest.fixture
def size() -> int:
    """Bytes of a huge page; skips where this kernel makes none at once."""
    try:
        size = int((huge_pages.KERNEL / "hpage_pmd_size").read_text())
        asked_for = "[madvise]" in (huge_pages.KERNEL / "enabled").read_text()
    except OSError:
        pytest.skip("this kernel has no huge pages")
    if not asked_for:
        pytest.skip("this kernel is told to use huge pages always, or never")
    memory = new_memory(size, 1)
    memory[:] = 1
    if huge_pages._join([memory.ctypes.data], size) != size:
        pytest.skip("this kernel makes no huge page at once: it is older than 6.1, or has none left")
    return size


def new_memory(size: int, count: int) -> Array:
    """This process's own, of so many huge pages' size and at their addresses; no page of it is there yet."""
    memory = mmap.mmap(-1, (count + 1) * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    everything = np.frombuffer(memory, np.uint8)
    start = -everything.ctypes.data % size
    return everything[start : start + count * size]


def in_huge_pages(memory: Array | None = None) -> int:
    """Bytes that are, of this memory or of the process."""
    start, total, within = memory.ctypes.data if memory is not None else 0, 0, True
    end = start + (memory.nbytes if memory is not None else 1 << 63)
    for line in SMAPS.read_text().splitlines():
        name, value, *_ = line.split()
        if not name.endswith(":"):
            low, high = (int(part, 16) for part in name.split("-"))
            within = low < end and high > start
        elif within and name == "AnonHugePages:":
            total += int(value) * 1024
    return total


def test_memory_that_is_there_comes_into_huge_pages_and_keeps_its_bytes(size: int) -> None:
    memory = new_memory(size, COUNT)
    memory[:] = np.random.default_rng(0).integers(0, 256, memory.shape, np.uint8)
    before = memory.copy()
    assert in_huge_pages(memory) == 0
    assert join_pages() >= COUNT * size
    assert in_huge_pages(memory) == COUNT * size
    assert np.array_equal(memory, before)


def test_memory_of_which_a_page_is_not_there_is_left_alone(size: int) -> None:
    """As of threads' stacks, and of what is kept for later: a huge page would make the process larger."""
    memory = new_memory(size, COUNT)
    memory[: -mmap.PAGESIZE] = 1
    join_pages()
    assert in_huge_pages(memory) == (COUNT - 1) * size


def test_weights_of_a_session_on_the_cpu_are_in_huge_pages(size: int, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((COUNT * size // 4096, 1024), np.float32)
    write_product(tmp_path / "model.onnx", weights)
    np.save(tmp_path / "expected.npy", weights.sum(0))
    command = [
        sys.executable,
        "-c",
        LOADS,
        str(tmp_path),
    ]  # a process of its own: it has no memory from before to give out
    loaded = subprocess.run(command, check=True, capture_output=True, text=True)
    gained = int(loaded.stdout.splitlines()[-1])
    assert gained >= weights.nbytes - 2 * size  # neither its first nor its last bytes fill one


LOADS = """
import sys
from pathlib import Path

import numpy as np

from services.kit.inference.engine import Engine, EngineSettings
from services.kit.inference.huge_pages import join_pages
from tests.unit.kit.inference.test_huge_pages import in_huge_pages

folder = Path(sys.argv[1])
join_pages()
before = in_huge_pages()
engine = Engine(folder / "model.onnx", EngineSettings(device="cpu", threads=1))
gained, expected = in_huge_pages() - before, np.load(folder / "expected.npy")
x = np.ones((1, engine.inputs[0].shape[1]), np.float32)
assert np.allclose(engine.run({"x": x}, ["y"])[0], expected, atol=1e-2)
print(gained)
"""


def write_product(path: Path, weights: Array) -> None:
    """A graph whose y is x times the weights."""
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, size])
        for name, size in zip("xy", weights.shape, strict=True)
    )
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "product", [x], [y], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), path)


@pytest.mark.parametrize("enabled", ["always madvise [never]", None])
def test_nothing_is_done_where_the_kernel_has_none_or_shall_use_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str | None
) -> None:
    if enabled is not None:
        (tmp_path / "enabled").write_text(enabled)
        (tmp_path / "hpage_pmd_size").write_text("2097152")
    monkeypatch.setattr(huge_pages, "KERNEL", tmp_path)
    assert join_pages() == 0


@pytest.mark.parametrize(
    ("error", "mapped", "tried"), [(errno.ENOMEM, True, 1), (errno.ENOMEM, False, 3), (errno.EINVAL, True, 3)]
)
def test_what_cannot_be_joined_at_once_is_left_to_the_kernel(
    monkeypatch: pytest.MonkeyPatch, error: int, mapped: bool, tried: int
) -> None:
    """And where no huge page is left, no further one is looked for; memory that has gone meanwhile says nothing."""
    asked: dict[int, list[int]] = {huge_pages.COLLAPSE: [], huge_pages.HUGEPAGE: []}

    def madvise(address: int, size: int, advice: int) -> int:
        asked[advice].append(address)
        ctypes.set_errno(error)
        return -1

    calls = {"madvise": madvise, "mincore": lambda *_: 0 if mapped else -1}
    monkeypatch.setattr(huge_pages, "_call", lambda name, _: calls[name])
    assert huge_pages._join([0, 4096, 8192], 4096) == 0
    assert asked == {huge_pages.COLLAPSE: [0, 4096, 8192][:tried], huge_pages.HUGEPAGE: [0, 4096, 8192]}
