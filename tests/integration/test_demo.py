"""The demonstration of `make run` against servers that have a part of what it shows."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.demo import show
from tests.language_server import LanguageServer
from tests.sequence_server import SequenceServer


@pytest.fixture
def server() -> Iterator[SequenceServer]:
    server = SequenceServer()
    yield server
    server.stop()


@pytest.fixture
def services(tmp_path: Path) -> Path:
    """A folder of services with some samples."""
    samples = tmp_path / "sequence" / "samples"
    samples.mkdir(parents=True)
    (samples / "7-0001.csv").write_text(",".join(["1"] * 64) + "\n")
    (samples / "sunspots.csv").write_text("year,sunspots\n2007,7.5\n2008,2.5\n")
    return tmp_path


def test_it_shows_a_digit_and_a_forecast(server: SequenceServer, services: Path) -> None:
    said: list[str] = []
    show(server.address, said.append, services)
    digit, try_track, sunspots, try_forecast = said
    looks = "even (75%) after 16, even (75%) after 32, even (75%) after 48, even (75%) after 64"
    assert digit == f"  a 7, pixel by pixel: parity:1 says {looks}"
    assert sunspots == "  sunspots 2009-2011: sum:1 says ▁▅█  11 12 13"
    samples = services / "sequence" / "samples"
    assert try_track.endswith(f"trivium track {samples / '7-0001.csv'} --address {server.address}")
    assert f"trivium forecast {samples / 'sunspots.csv'} --column sunspots" in try_forecast


def test_a_service_that_is_missing_is_said_and_the_others_are_shown(server: SequenceServer, services: Path) -> None:
    images = services / "vision" / "samples"
    images.mkdir(parents=True)
    (images / "1-0001.png").write_bytes(b"image")
    said: list[str] = []
    show(server.address, said.append, services)
    assert said[0].startswith("  images: UNIMPLEMENTED")
    assert len(said) == 5


@pytest.fixture
def language() -> Iterator[LanguageServer]:
    server = LanguageServer()
    yield server
    server.stop()


def test_it_shows_what_is_made_of_texts(language: LanguageServer, tmp_path: Path) -> None:
    for model in ("dates-transformer", "langid-text", "python-gpt"):
        (tmp_path / "language" / "bundles" / model).mkdir(parents=True)
    said: list[str] = []
    show(language.address, said.append, tmp_path)
    dates, try_date, phrase, function, *lines, try_function = said
    assert re.fullmatch(
        r"  dates-transformer:1 says 2026年11月25日 is [a-z]{64}, the 25th of November, 2026 is [a-z]{64}", dates
    )
    assert try_date.endswith(f"--model dates-transformer 'the 25th of November, 2026' --address {language.address}")
    assert phrase.endswith("langid-text:1 says upper (75.0%)")
    assert function == "  python-gpt:1 goes on with a function, 48 tokens:"
    assert (lines[0], len(lines)) == ("    def fibonacci(n):", 2)
    assert try_function.startswith(r"  try: printf 'def fibonacci(n):\n' | .venv/bin/trivium generate")


def test_without_the_language_service_the_rest_is_shown(server: SequenceServer, services: Path) -> None:
    (services / "language" / "bundles" / "python-gpt").mkdir(parents=True)
    said: list[str] = []
    show(server.address, said.append, services)
    assert (len(said), said[-1].partition(":")[0]) == (5, "  function")
