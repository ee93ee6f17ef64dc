from typing import Any

import pytest

from services.kit.discovery import Instance
from services.kit.discovery.client import consul_service, parse_address
from services.kit.discovery.watcher import instance_of
from services.kit.errors import SettingsError


def entry(*checks: tuple[str, str], address: str = "10.0.0.7") -> dict[str, Any]:
    return {
        "Node": {"Address": "10.0.0.1"},
        "Service": {"Service": "trivium-vision-v1", "ID": "vision-1", "Address": address, "Port": 9000, "Meta": None},
        "Checks": [{"CheckID": check, "Status": status} for check, status in checks],
    }


@pytest.mark.parametrize(
    ("checks", "state"),
    [
        ([("serfHealth", "passing"), ("vision-1:grpc", "passing")], "passing"),
        ([("serfHealth", "passing"), ("vision-1:grpc", "warning")], "warning"),
        ([("serfHealth", "passing"), ("vision-1:grpc", "critical")], "critical"),
        ([("vision-1:grpc", "critical"), ("_service_maintenance:vision-1", "critical")], "maintenance"),
        ([("_node_maintenance", "critical")], "maintenance"),
        ([], "passing"),
    ],
)
def test_the_worst_check_decides_and_maintenance_is_told_apart(checks: list[tuple[str, str]], state: str) -> None:
    assert instance_of(entry(*checks)) == Instance("trivium-vision-v1", "vision-1", "10.0.0.7:9000", {}, state)  # type: ignore[arg-type]


def test_an_entry_without_address_is_at_its_node() -> None:
    assert instance_of(entry(address="")).address == "10.0.0.1:9000"


@pytest.mark.parametrize("address", ["http://consul:8500", "consul:8500", "https://consul:8501"])
def test_addresses_are_urls_or_host_and_port(address: str) -> None:
    assert parse_address(address)[1] == "consul"


@pytest.mark.parametrize("address", ["", "consul", "http://consul", "consul:many", "ftp://consul:1"])
def test_an_address_without_a_port_stops_the_start(address: str) -> None:
    with pytest.raises(SettingsError, match="CONSUL__ADDRESS"):
        parse_address(address)


def test_a_package_has_one_consul_service() -> None:
    assert consul_service("trivium.vision.v1") == "trivium-vision-v1"
