import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from services.kit.telemetry import LogSettings, configure_logs


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_a_line_says_who_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    configure_logs(LogSettings(format="json"), component="vision", instance="vision-1")
    structlog.get_logger().info("registered", service="trivium-vision-v1")
    logging.getLogger("aiohttp").warning("from a library")
    ours, theirs = (json.loads(line) for line in stderr.getvalue().splitlines())
    assert (ours["event"], ours["component"], ours["instance"]) == ("registered", "vision", "vision-1")
    assert (theirs["event"], theirs["level"], theirs["instance"]) == ("from a library", "warning", "vision-1")


def test_a_full_disk_costs_the_line_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    configure_logs(LogSettings(format="json"), component="vision")
    structlog.get_logger().info("call")
    logging.getLogger("aiohttp").warning("from a library")
