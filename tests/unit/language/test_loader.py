"""Loader: a manifest that allows more than its graphs can compute is refused before a caller finds out."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.kit.errors import StartupError
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.engine import EngineSettings
from services.kit.inference.loading import ModelsSettings
from services.kit.inference.models import Models
from services.language.__main__ import BUNDLES
from services.language.engine.drawn import Drawn
from services.language.engine.runs import Runs
from services.language.loader import loader
from services.language.metrics import GenerationMetrics
from services.language.settings import GenerationSettings

NAME = "dates-transformer"


async def loaded(
    folder: Path, name: str = NAME, max_texts: int = 2, cache_mib: int = 8, **generation: Any
) -> AsyncIterator[None]:
    """The bundle with other numbers in its manifest, loaded."""
    path = shutil.copytree(BUNDLES / name / "1", folder / name / "1")
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    manifest["generation"] |= generation
    (path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    settings = ModelsSettings(
        "language", (folder,), name, EngineSettings(device="cpu", threads=1), BatcherSettings(max_batch=1)
    )
    registry = CollectorRegistry()
    load = loader(GenerationSettings(max_texts=max_texts, cache_mib=cache_mib), GenerationMetrics(registry))
    async with Models.open(settings, load, registry) as models:
        assert [model.name for model in models.ready()] == [name]
        yield


async def test_a_bundle_as_it_is_loads(tmp_path: Path) -> None:
    assert [None async for _ in loaded(tmp_path)] == [None]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"vocab": 5000}, "refuse the last token"),
        ({"max_source": 5000}, "refuse the last token, place or source"),
        ({"max_tokens": 1 << 20}, "needs .* MiB of keys and values, and 8 are allowed"),
        ({"max_tokens": 1 << 40}, "generation.max_tokens: must lie in"),
        ({"layers": 1 << 40}, "generation.layers: must lie in"),
        ({"max_source": -1}, "generation.max_source: must lie in"),
    ],
)
async def test_more_than_the_graphs_or_the_memory_can_do_is_refused_at_once(
    tmp_path: Path, wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(StartupError, match=says):
        await anext(loaded(tmp_path, **wrong))


async def test_the_warm_up_stays_within_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model whose shortest rows are half as long as its longest one."""
    rows: list[int] = []
    run = Runs.run

    def watched(self: Runs, first: int, token_ids: Any, *arguments: Any) -> Drawn:
        rows.append(len(token_ids))
        assert (first + len(token_ids)) * self.cache.size <= self.cache.capacity
        return run(self, first, token_ids, *arguments)

    monkeypatch.setattr(Runs, "run", watched)
    model = loaded(tmp_path, "python-gpt", max_texts=32, cache_mib=1, max_tokens=128)
    assert [None async for _ in model] == [None]
    assert max(rows) > 5
