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
from services.language.loader import loader
from services.language.metrics import GenerationMetrics
from services.language.settings import GenerationSettings

NAME = "dates-transformer"


async def loaded(folder: Path, **generation: Any) -> AsyncIterator[None]:
    """The bundle with other numbers in its manifest, loaded."""
    path = shutil.copytree(BUNDLES / NAME / "1", folder / NAME / "1")
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    manifest["generation"] |= generation
    (path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    settings = ModelsSettings(
        "language", (folder,), NAME, EngineSettings(device="cpu", threads=1), BatcherSettings(max_batch=1)
    )
    registry = CollectorRegistry()
    load = loader(GenerationSettings(max_texts=2, cache_mib=8), GenerationMetrics(registry))
    async with Models.open(settings, load, registry) as models:
        assert [model.name for model in models.ready()] == [NAME]
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
    tmp_path: Path, wrong: dict[str, int], says: str
) -> None:
    with pytest.raises(StartupError, match=says):
        await anext(loaded(tmp_path, **wrong))
