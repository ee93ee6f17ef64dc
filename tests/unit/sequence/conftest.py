"""A servicer of models whose answers can be told and whose batchers do as the test says."""

from typing import Any, cast

import pytest

from services.sequence.leaving import Leaving
from services.sequence.servicer import SequenceServicer
from tests.unit.sequence.fakes import FakeModels, manifest
from tests.unit.sequence.tracking import SETTINGS


@pytest.fixture
def models() -> FakeModels:
    return FakeModels(
        plain=manifest("tensors"),
        classes=manifest("classifier"),
        forecast=manifest("forecaster", width=2),
        both_ways=manifest("classifier", bidirectional=True),
        numbers=manifest("values"),
    )


@pytest.fixture
def leaving() -> Leaving:
    return Leaving()


@pytest.fixture
def servicer(models: FakeModels, leaving: Leaving) -> SequenceServicer:
    return SequenceServicer(cast(Any, models), SETTINGS, leaving)
