"""The models of a service of the Open Inference Protocol."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.engine import EngineSettings
from services.kit.inference.loading import ModelsSettings, batched
from services.kit.inference.models import Models
from services.kit.inference.oip import OipServicer
from tests import bundles as tiny

SETTINGS = BatcherSettings(max_batch=8, max_wait_ms=0)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    tiny.add(folder, version=1, datatype="FP32", width=-1)
    tiny.add(folder, version=3, datatype="FP32", width=-1)
    tiny.fixed(folder)
    tiny.colours(folder)
    tiny.slow(folder, rounds=1)
    return folder


@pytest.fixture
async def models(folder: Path) -> AsyncIterator[Models[None]]:
    settings = ModelsSettings("vision", (folder,), "add", EngineSettings(device="cpu", threads=1), SETTINGS)
    async with Models.open(settings, batched(lambda manifest: None), CollectorRegistry()) as models:
        yield models


@pytest.fixture
def servicer(models: Models[None]) -> OipServicer:
    return OipServicer(models, lambda: True)
