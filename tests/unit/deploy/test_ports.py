"""Ports: free ones are free, and a taken one is named with its owner."""

import os
import socket
from collections.abc import Iterator

import pytest

from deploy.local.ports import check_gateway_ports, free_ports, listens
from deploy.local.settings import GatewayAddress
from services.kit.errors import StartupError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_free_ports_are_different_and_can_be_listened_on() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass


@pytest.mark.parametrize("name", ["GRPC_PORT", "HTTP_PORT"])
def test_a_taken_port_is_named_with_its_owner_and_a_way_out(taken: int, name: str) -> None:
    (free,) = free_ports(1)
    ports = (taken, free) if name == "GRPC_PORT" else (free, taken)
    with pytest.raises(StartupError, match=f"{taken} is taken by process {os.getpid()}") as caught:
        check_gateway_ports(GatewayAddress("127.0.0.1", *ports))
    assert f"TRIVIUM_GATEWAY__{name}=" in caught.value.hint


def test_the_gateways_two_ports_must_differ() -> None:
    (free,) = free_ports(1)
    with pytest.raises(StartupError, match=f"both {free}"):
        check_gateway_ports(GatewayAddress("127.0.0.1", free, free))


def test_a_port_belongs_to_the_process_that_listens_on_it(taken: int) -> None:
    assert listens(os.getpid(), taken)
    assert not listens(os.getpid(), free_ports(1)[0])
    assert not listens(os.getppid(), taken)
