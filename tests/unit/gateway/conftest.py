"""Background work that fails begins again at once."""

from typing import Any

import pytest

from services.kit import background


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    functions: tuple[Any, ...] = (background.until_done, background.forever)
    for function in functions:
        monkeypatch.setitem(function.__kwdefaults__, "pause_s", 0.0)
