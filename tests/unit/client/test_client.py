"""Client: which addresses it takes."""

import pytest

from trivium.client import Client


@pytest.mark.parametrize("address", ["localhost:8001", "127.0.0.1:1", "[::1]:8001", "unix:/run/trivium.sock"])
def test_an_address_names_a_host_and_a_port_or_a_socket(address: str) -> None:
    with Client(address) as client:
        assert client.address == address


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":8001", "localhost:grpc", "host:0", "http://host:1"])
def test_any_other_address_is_refused_with_words_for_people(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_ADDRESS", address)
    with pytest.raises(ValueError, match="the address is host:port"):
        Client()
