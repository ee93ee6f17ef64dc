"""A server of series whose answers the tests can tell, and a client of it."""

from collections.abc import Iterator

import pytest

from tests.sequence_server import SequenceServer
from trivium.client import Client


@pytest.fixture
def server() -> Iterator[SequenceServer]:
    server = SequenceServer()
    yield server
    server.stop()


@pytest.fixture
def client(server: SequenceServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client
