"""The demonstration of `make run` against a server that has series and no images."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.demo import show
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
