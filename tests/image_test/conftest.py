"""Builds the images once for all tests, and prints what was measured after them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.image_test.base_image import base_image
from tests.image_test.engine import Engine, NoEngine, find_engine
from tests.image_test.report import Report

COMPONENTS = ("gateway", "vision", "sequence", "language")
REPORT = pytest.StashKey[Report]()


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash.setdefault(REPORT, Report())


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Prints a line at once: a build takes minutes."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"image-test: {text}", flush=True)

    return line


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        found = find_engine()
    except NoEngine as missing:
        pytest.exit(str(missing), returncode=2)
    yield found
    found.close()


@pytest.fixture(scope="session")
def base(engine: Engine, report: Report, say: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the base image."""
    try:
        name = base_image(engine, tmp_path_factory.mktemp("base"), say)
    except NoEngine as missing:
        pytest.exit(str(missing), returncode=2)
    report.engine, report.base, report.base_size = engine.name, name, engine.size(name)
    return name


@pytest.fixture(scope="session")
def images(engine: Engine, base: str, report: Report, say: Callable[[str], None]) -> Mapping[str, str]:
    """The image of each component, just built of this checkout."""
    built = {component: f"localhost/trivium-{component}:image-test" for component in COMPONENTS}
    for component, image in built.items():
        started = time.monotonic()
        engine.build(image, {"COMPONENT": component, "BASE_IMAGE": base})
        report.sizes[component] = engine.size(image)
        say(f"built {image} in {time.monotonic() - started:.0f} s")
    return built


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that every user may read: the containers' is none of this machine's."""
    folder = tmp_path / "bundles"
    folder.mkdir()
    folder.chmod(0o755)
    return folder


@pytest.fixture
def closed_folder(tmp_path: Path) -> Path:
    """A folder that its owner alone may read."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o700)
    return folder


@pytest.fixture
def gpu_wanted() -> None:
    if os.environ.get("GPU") != "1":
        pytest.skip("GPU images are large: built with GPU=1 only")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash.get(REPORT, None)
    if report is not None and report.sizes:
        terminalreporter.write_line("")
        terminalreporter.write_line(report.text())
