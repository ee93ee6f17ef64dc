"""A server of texts whose answers the tests can tell, and a client of it."""

from collections.abc import Iterator

import pytest

from tests.language_server import LanguageServer
from trivium.client import Client


@pytest.fixture
def server() -> Iterator[LanguageServer]:
    server = LanguageServer()
    yield server
    server.stop()


@pytest.fixture
def client(server: LanguageServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client
