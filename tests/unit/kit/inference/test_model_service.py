import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import InvalidField, ModelNotFound
from services.kit.inference import bundle as bundles
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.engine import EngineSettings
from services.kit.inference.loading import ModelsSettings, batched
from services.kit.inference.model_service import ModelServicer
from services.kit.inference.models import Models
from tests import bundles as tiny
from trivium.common.v1 import model_pb2
from trivium.models.v1 import models_pb2

READY, UNLOADED = model_pb2.MODEL_STATE_READY, model_pb2.MODEL_STATE_UNLOADED
FAILED = model_pb2.MODEL_STATE_FAILED
CALL = Call("/trivium.models.v1.ModelService/GetModel", Deadline())


@pytest.fixture
async def servicer(tmp_path: Path) -> AsyncIterator[ModelServicer]:
    tiny.add(tmp_path, version=1)
    tiny.add(tmp_path, version=2)
    tiny.colours(tmp_path)
    (tmp_path / "add" / "labels.json").write_text(json.dumps({"stable": 1, "old": 1, "canary": 2}))
    settings = ModelsSettings(
        "vision", (tmp_path,), "colours", EngineSettings(device="cpu", threads=1), BatcherSettings(max_batch=4)
    )
    async with Models.open(settings, batched(lambda manifest: None), CollectorRegistry()) as models:
        yield ModelServicer(models)


async def listed(servicer: ModelServicer, model: str = "") -> list[tuple[str, int, int]]:
    response = await servicer.list_models(models_pb2.ListModelsRequest(model=model), CALL)
    return [(info.name, info.version, info.state) for info in response.models]


async def test_list_names_every_version_loaded_or_not(servicer: ModelServicer) -> None:
    assert await listed(servicer) == [("add", 1, READY), ("add", 2, READY), ("colours", 1, READY)]
    await servicer.unload_model(models_pb2.UnloadModelRequest(model="add"), CALL)
    assert await listed(servicer) == [("add", 1, UNLOADED), ("add", 2, UNLOADED), ("colours", 1, READY)]
    assert await listed(servicer, "add") == [("add", 1, UNLOADED), ("add", 2, UNLOADED)]
    loaded = await servicer.load_model(models_pb2.LoadModelRequest(model="add"), CALL)
    assert [(info.version, info.state) for info in loaded.models] == [(1, READY), (2, READY)]
    assert await listed(servicer, "nope") == []
    servicer._models._lose(servicer._models.find("add:2"))
    assert await listed(servicer, "add") == [("add", 1, READY), ("add", 2, FAILED)]


async def test_a_model_is_described_as_its_bundle_says(servicer: ModelServicer, tmp_path: Path) -> None:
    info = (await servicer.get_model(models_pb2.GetModelRequest(model="colours"), CALL)).model
    assert (info.name, info.version, info.service, info.task) == ("colours", 1, "vision", "image-classification")
    assert [(t.name, t.datatype, list(t.shape)) for t in info.inputs] == [("image", "UINT8", [-1, 8, 8, 3])]
    assert [t.name for t in info.outputs] == ["logits", "embedding"]
    assert list(info.classes) == ["red", "green", "blue"]
    assert (info.max_batch_size, info.is_default) == (4, True)
    assert info.digest == bundles.digest(bundles.load(tmp_path / "colours" / "1"))
    assert json.loads(info.card_json) == {"training": None, "metrics": None, "limits": []}


async def test_get_finds_by_name_version_label_and_default(servicer: ModelServicer) -> None:
    async def got(model: str) -> tuple[str, int, list[str], bool]:
        info = (await servicer.get_model(models_pb2.GetModelRequest(model=model), CALL)).model
        return info.name, info.version, list(info.labels), info.is_default

    assert await got("") == ("colours", 1, [], True)
    assert await got("add") == await got("add@canary") == ("add", 2, ["canary"], False)
    assert await got("add:1") == await got("add@stable") == ("add", 1, ["old", "stable"], False)
    with pytest.raises(ModelNotFound):
        await got("nope")


@pytest.mark.parametrize("name", ["", "add:1", "add@stable", "../add", "a/b"])
async def test_load_and_unload_take_names_only(servicer: ModelServicer, name: str) -> None:
    with pytest.raises(InvalidField, match="is no name of a bundle"):
        await servicer.load_model(models_pb2.LoadModelRequest(model=name), CALL)
    with pytest.raises(InvalidField, match="is no name of a bundle"):
        await servicer.unload_model(models_pb2.UnloadModelRequest(model=name), CALL)
