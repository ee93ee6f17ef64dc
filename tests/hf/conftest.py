"""All checkpoints of the tests, each made once."""

from pathlib import Path

import pytest

from tests.hf.checkpoints import CASES
from tests.hf.pairs import Pair, pair_of


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are: checkpoints/NAME and bundles/NAME/1."""
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="session")
def pairs(folder: Path) -> dict[str, Pair]:
    """By the name of the case."""
    return {case.name: pair_of(case, folder) for case in CASES}


@pytest.fixture(params=[case.name for case in CASES])
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Pair:
    """Each of them."""
    return pairs[request.param]
