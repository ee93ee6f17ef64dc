import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.kit.deadline import Deadline
from services.kit.errors import InvalidField, LoadIncomplete, ModelNotFound, StartupError
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.engine import EngineSettings
from services.kit.inference.loading import ModelsSettings, batched
from services.kit.inference.manifest import Manifest
from services.kit.inference.models import Models
from tests import bundles as tiny

CPU = EngineSettings(device="cpu", threads=1)


def opened(*folders: Path, default: str = "add", max_batch: int = 4) -> AbstractAsyncContextManager[Models[str]]:
    settings = ModelsSettings("vision", folders, default, CPU, BatcherSettings(max_batch=max_batch))
    return Models.open(settings, batched(lambda manifest: manifest.description), CollectorRegistry())


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models[str]]:
    for version in (1, 2, 10):
        tiny.add(tmp_path, version=version)
    tiny.identity(tmp_path)
    (tmp_path / "add" / "labels.json").write_text(json.dumps({"stable": 2, "lost": 7}))
    async with opened(tmp_path) as models:
        yield models


def names(models: Models[str]) -> list[tuple[str, int]]:
    return [(model.name, model.version) for model in models.ready()]


async def test_all_bundles_are_ready_sorted_with_versions_as_numbers(models: Models[str]) -> None:
    assert names(models) == [("add", 1), ("add", 2), ("add", 10), ("identity", 1)]
    assert models.unloaded() == []


@pytest.mark.parametrize(("text", "version"), [("", 10), ("add", 10), ("add:1", 1), ("add@stable", 2), ("identity", 1)])
async def test_a_model_is_found_by_name_version_label_or_default(models: Models[str], text: str, version: int) -> None:
    model = models.find(text)
    assert (model.name, model.version) == (text.partition(":")[0].partition("@")[0] or "add", version)
    assert model.pipeline == model.manifest.description


@pytest.mark.parametrize("text", ["nope", "add:3", "add@nope", "add@lost", "identity@stable", "nope:1"])
async def test_an_unknown_model_version_or_label_is_not_found(models: Models[str], text: str) -> None:
    with pytest.raises(ModelNotFound, match="Request for unknown model"):
        models.find(text)


async def test_the_default_of_a_method_is_the_first_model_that_can_answer_it(models: Models[str]) -> None:
    def one_input(manifest: Manifest) -> bool:
        return len(manifest.inputs) == 1

    assert models.find("", one_input).name == "identity"
    assert models.find("", lambda manifest: False).name == "add"
    assert models.find("add", one_input).name == "add"  # a name is a name: the servicer says that it cannot


async def test_unloading_and_loading_change_the_set_the_digest_and_call_on_change(models: Models[str]) -> None:
    changes: list[list[tuple[str, int]]] = []
    models.on_change = lambda: changes.append(names(models))
    before = models.digest()

    await models.unload("add")
    assert names(models) == [("identity", 1)]
    assert [(bundle.name, bundle.version) for bundle in models.unloaded()] == [("add", 1), ("add", 2), ("add", 10)]
    assert models.digest() != before
    with pytest.raises(ModelNotFound, match="LoadModel brings it back"):
        models.find("")

    loaded = await models.load("add")
    assert [model.version for model in loaded] == [1, 2, 10]
    assert models.digest() == before
    assert changes == [[("identity", 1)], names(models)]


async def test_load_takes_new_versions_and_labels_and_leaves_loaded_ones_alone(
    models: Models[str], tmp_path: Path
) -> None:
    old, before = models.find("add:1"), models.digest()
    tiny.add(tmp_path, version=11)
    (tmp_path / "add" / "labels.json").write_text(json.dumps({"canary": 11}))

    await models.load("add")

    assert models.find("add@canary").version == models.find("").version == 11
    assert models.find("add:1") is old
    assert models.digest() != before
    with pytest.raises(ModelNotFound):
        models.find("add@stable")


async def test_new_labels_alone_change_the_digest(models: Models[str], tmp_path: Path) -> None:
    before = models.digest()
    (tmp_path / "add" / "labels.json").write_text(json.dumps({"stable": 1}))
    await models.load("add")
    assert models.digest() != before
    assert models.find("add@stable").version == 1


async def test_a_damaged_version_is_named_and_the_others_are_loaded(models: Models[str], tmp_path: Path) -> None:
    await models.unload("add")
    (tmp_path / "add" / "2" / "model.onnx").write_bytes(b"not a model")

    with pytest.raises(LoadIncomplete, match=r"add/2/model.onnx"):
        await models.load("add")

    assert names(models) == [("add", 1), ("add", 10), ("identity", 1)]
    assert not models.taken_out("add")


async def test_what_has_failed_is_told_from_what_was_unloaded(models: Models[str]) -> None:
    before = models.digest()
    models._lose(models.find("identity"))
    lost = models.digest()
    assert (models.taken_out("identity"), [bundle.name for bundle in models.unloaded()]) == (False, ["identity"])
    with pytest.raises(ModelNotFound, match=r"'identity' is not found$"):
        models.find("identity")
    await models.unload("identity")
    assert models.taken_out("identity")
    assert len({before, lost, models.digest()}) == 3
    await models.load("identity")
    assert (models.taken_out("identity"), models.digest()) == (False, before)


async def test_unloading_twice_is_as_good_as_once(models: Models[str]) -> None:
    for _ in range(2):
        await models.unload("add")
    assert names(models) == [("identity", 1)]


async def test_a_version_that_was_deleted_is_forgotten(models: Models[str], tmp_path: Path) -> None:
    await models.unload("add")
    shutil.rmtree(tmp_path / "add" / "10")
    await models.load("add")
    assert names(models)[:-1] == [("add", 1), ("add", 2)]
    assert models.unloaded() == []


@pytest.mark.parametrize("name", ["", "../add", "add/1", "add:1", "add@stable", "/etc", "Add", "a" * 64, "add\n"])
async def test_load_and_unload_take_names_of_bundles_only(models: Models[str], name: str) -> None:
    for method in (models.load, models.unload):
        with pytest.raises(InvalidField, match="is no name of a bundle"):
            await method(name)


async def test_what_is_not_there_cannot_be_loaded_or_unloaded(models: Models[str]) -> None:
    with pytest.raises(ModelNotFound, match="failed to load 'nope'"):
        await models.load("nope")
    with pytest.raises(ModelNotFound, match="failed to unload 'nope'"):
        await models.unload("nope")


async def test_items_in_work_are_answered_when_their_model_is_unloaded(tmp_path: Path) -> None:
    tiny.slow(tmp_path, rounds=20, max_batch=1)
    async with opened(tmp_path, default="slow") as models:
        submit = models.find("").batcher.submit
        calls = [asyncio.create_task(submit({"x": np.ones((1, 1), np.float32)}, Deadline())) for _ in range(5)]
        await asyncio.sleep(0)
        await models.unload("slow")
        outputs = await asyncio.gather(*calls)

    assert [float(output.arrays["y"][0, 0]) for output in outputs] == [1.0] * 5


async def test_a_model_whose_engine_has_failed_is_out_of_service_until_it_is_loaded_again(
    models: Models[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, changed = models.find("identity"), asyncio.Event()
    models.on_change = changed.set

    def lost(inputs: object, outputs: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(model.engine, "run", lost)
    with pytest.raises(Exception, match="engine"):
        await model.batcher.submit({"x": np.ones((1, 4), np.float32)}, Deadline())
    assert changed.is_set()
    with pytest.raises(ModelNotFound):
        models.find("identity")

    await models.load("identity")
    output = await models.find("identity").batcher.submit({"x": np.ones((1, 4), np.float32)}, Deadline())
    assert output.arrays["y"].tolist() == [[1, 1, 1, 1]]


async def test_rows_of_a_request_are_bounded_by_the_bundle_and_the_settings(tmp_path: Path) -> None:
    tiny.add(tmp_path, max_batch=8)
    tiny.identity(tmp_path, max_batch=2)
    tiny.fixed(tmp_path)
    async with opened(tmp_path) as models:
        assert {model.name: model.max_batch for model in models.ready()} == {"add": 4, "fixed": 0, "identity": 2}


async def test_a_service_without_bundles_does_not_start(tmp_path: Path) -> None:
    tiny.add(tmp_path, service="sequence")
    with pytest.raises(StartupError, match="no bundle of service vision"):
        async with opened(tmp_path):
            pass


async def test_a_default_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    tiny.add(tmp_path)
    with pytest.raises(StartupError, match="nope") as raised:
        async with opened(tmp_path, default="nope"):
            pass
    assert "add" in raised.value.hint


async def test_a_damaged_bundle_stops_the_start_and_leaves_no_thread(tmp_path: Path) -> None:
    tiny.add(tmp_path)
    (tiny.identity(tmp_path).path / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(StartupError, match="SHA-256"):
        async with opened(tmp_path):
            pass


async def test_other_answers_than_the_known_ones_stop_the_start(tmp_path: Path) -> None:
    one, two = tiny.add(tmp_path / "one"), tiny.add(tmp_path / "two", datatype="INT32")
    with np.load(two.path / "known_answers.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    arrays["output:sum"][0, 0] += 1
    np.savez(one.path / "known_answers.npz", **arrays)
    manifest = json.loads((one.path / "manifest.json").read_text())
    data = (one.path / "known_answers.npz").read_bytes()
    manifest["files"]["known_answers.npz"] = hashlib.sha256(data).hexdigest()
    (one.path / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(StartupError, match="'sum' is 1 instead of 2"):
        async with opened(tmp_path / "one"):
            pass


async def test_cuda_on_a_machine_without_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.inference.engine.has_cuda_driver", lambda: False)
    tiny.add(tmp_path)
    settings = ModelsSettings("vision", (tmp_path,), "add", EngineSettings(device="cuda"), BatcherSettings())
    with pytest.raises(StartupError, match=r"libcuda.so.1"):
        async with Models.open(settings, batched(lambda manifest: None), CollectorRegistry()):
            pass
