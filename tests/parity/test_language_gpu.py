"""Bundles for GPUs, loaded by a stand-in for one: on the CPU, with the memory and the bindings of a GPU."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from services.kit.errors import StartupError
from services.kit.inference import engine as engines
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.engine import EngineSettings
from services.kit.inference.loading import ModelsSettings
from services.kit.inference.models import Models
from services.language.engine.cuda import Cuda
from services.language.loader import loader
from services.language.metrics import GenerationMetrics
from services.language.settings import GenerationSettings
from services.language.writer import Writer
from tests.language_bundles import Kind, Precision, tiny_bundle
from tests.unit.language.engine.cuda import Runtime, Session
from tests.unit.language.scheduling import tokens
from trivium.language.v1 import language_pb2 as pb

WISHES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.2, "seed": 3},
    {"temperature": 0.9, "seed": 4, "top_k": 5, "repetition_penalty": 1.3, "logprobs": 2},
)


class Gpu:
    """The stand-in, which every session of a test runs on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runtime, self.sessions = Runtime(), list[Session]()
        on_cpu = engines._session
        self.wishes: list[dict[str, str]] = []

        def session(path: Path, device: Any, settings: EngineSettings, wishes: dict[str, str]) -> Any:
            made = on_cpu(path, "cpu", settings, {})
            if device == "cpu":
                return made
            self.wishes.append(dict(wishes))
            self.sessions.append(Session(made, self.runtime, shared="user_compute_stream" in wishes))
            return self.sessions[-1]

        monkeypatch.setattr(engines, "has_cuda_driver", lambda: True)
        monkeypatch.setattr(engines, "_session", session)
        monkeypatch.setattr(Cuda, "open", lambda device: Cuda(self.runtime, device))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


@asynccontextmanager
async def writer(folder: Path, device: Any, name: str, **settings: Any) -> AsyncIterator[Writer]:
    engine = EngineSettings(device=device, threads=1)
    models = ModelsSettings("language", (folder,), name, engine, BatcherSettings(max_batch=1))
    registry = CollectorRegistry()
    generation = GenerationSettings(**{"max_texts": 4, "cache_mib": 8, "prefix_mib": 1} | settings)
    async with Models.open(models, loader(generation, GenerationMetrics(registry)), registry) as opened:
        found = opened.find(name).pipeline
        assert isinstance(found, Writer)
        yield found


async def written(by: Writer) -> list[list[int]]:
    found = []
    for wishes in WISHES * 2:  # the second ones begin with what is known of the first ones
        request = pb.GenerateRequest(prompt="in the end " * 3, max_new_tokens=30, **wishes)
        texts = await by.texts(request, Deadline(), lambda: 0)
        by.scheduler.submit(texts.sequences)
        found.append(await tokens(texts.sequences[0]))
    return found


@pytest.mark.parametrize(
    ("kind", "precision", "cuda_graphs", "recorded"),
    [
        ("gpt", "FP16", True, True),
        ("gpt", "FP16", False, False),
        ("gpt", "FP32", True, False),
        ("translate", "FP32", True, False),
    ],
)
async def test_a_gpu_writes_what_the_cpu_writes(
    gpu: Gpu, tmp_path: Path, kind: Kind, precision: Precision, *, cuda_graphs: bool, recorded: bool
) -> None:
    tiny_bundle(tmp_path, kind, precision=precision)
    async with writer(tmp_path, "cpu", kind) as here:
        expected = await written(here)
    async with writer(tmp_path, "cuda", kind, cuda_graphs=cuda_graphs) as there:
        assert await written(there) == expected
    decoder = gpu.sessions[0]
    assert (len(decoder.recorded) > 20, decoder.replayed > 60) == (recorded, recorded)  # three rooms, four numbers
    assert [wishes.get("enable_cuda_graph") == "1" for wishes in gpu.wishes] == [recorded] * len(gpu.wishes)


async def test_what_a_text_takes_is_recorded_before_it_comes(gpu: Gpu, tmp_path: Path) -> None:
    tiny_bundle(tmp_path, "gpt", precision="FP16")
    async with writer(tmp_path, "cuda", "gpt", prefix_mib=0) as there:
        recorded, replayed = len(gpu.sessions[0].recorded), gpu.sessions[0].replayed
        await written(there)
        assert gpu.sessions[0].replayed > replayed + 60
        assert len(gpu.sessions[0].recorded) == recorded


async def test_memory_of_a_gpu_is_given_back(gpu: Gpu, tmp_path: Path) -> None:
    tiny_bundle(tmp_path, "gpt", precision="FP16")
    async with writer(tmp_path, "cuda", "gpt") as there:
        await written(there)
        assert sum(map(len, gpu.runtime.allocated.values())) > 1 << 17
        assert gpu.runtime.streams == 1
    assert gpu.runtime.allocated == {}
    assert gpu.runtime.streams == 0


async def test_a_gpu_that_fails_does_not_keep_a_model_from_being_unloaded(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path, "gpt", precision="FP16")
    async with writer(tmp_path, "cuda", "gpt"):
        monkeypatch.setattr(gpu.runtime, "cudaFree", lambda _: (700,))
    assert gpu.runtime.allocated
    assert gpu.runtime.streams == 0


@pytest.mark.parametrize(
    ("most", "says"),
    [(1 << 16, r"no 8 \+ 1 MiB on the GPU for keys and values: cudaMalloc"), (1 << 30, None)],
)
async def test_a_gpu_without_memory_for_the_caches_is_said_at_the_start(
    gpu: Gpu, tmp_path: Path, most: int, says: str | None
) -> None:
    gpu.runtime.most = most
    tiny_bundle(tmp_path, "gpt", precision="FP16")
    if says is None:
        async with writer(tmp_path, "cuda", "gpt") as there:
            # What texts need is reserved, but for the small inputs of a shape that is new.
            gpu.runtime.most = sum(map(len, gpu.runtime.allocated.values())) + (1 << 20)
            assert all(await written(there))
        return
    with pytest.raises(StartupError, match=says) as raised:
        await writer(tmp_path, "cuda", "gpt").__aenter__()
    assert "GENERATION__CACHE_MIB" in raised.value.hint


async def test_bf16_where_there_is_no_gpu_says_what_to_do(tmp_path: Path) -> None:
    manifest = tiny_bundle(tmp_path, "gpt") / "manifest.json"
    said = json.loads(manifest.read_text("utf-8"))
    said["generation"]["precision"] = "BF16"
    manifest.write_text(json.dumps(said), "utf-8")
    with pytest.raises(StartupError, match="bf16 needs a GPU") as raised:
        await writer(tmp_path, "cpu", "gpt").__aenter__()
    assert "fp16 or fp32" in raised.value.hint
