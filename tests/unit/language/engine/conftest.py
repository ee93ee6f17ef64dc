"""Runs over the graphs of a bundle with an encoder."""

import pytest

from services.kit.inference import bundle as bundles
from services.kit.inference.engine import Engine, EngineSettings
from services.kit.inference.manifest import ENCODER
from services.language.__main__ import BUNDLES
from services.language.engine.memory import caches
from services.language.engine.runs import Runs
from tests.unit.language.engine.shipped import Watched, spoil


@pytest.fixture
def runs() -> Runs:
    bundle = bundles.load(BUNDLES / "dates-transformer" / "1")
    generation = bundle.manifest.generation
    assert generation is not None
    settings = EngineSettings(device="cpu", threads=1)
    decoder, encoder = Watched(bundle.path / bundles.MODEL, settings), Engine(bundle.path / ENCODER, settings)
    cache, cross, _, _ = caches(generation, 8, 8, "dates")
    assert cross is not None
    for memory in (cache, cross):
        spoil(memory)
    return Runs(generation, decoder, cache, encoder, cross)
