"""What the environment says about a run."""

from pathlib import Path

import pytest

from deploy.local.settings import ROOT, GatewayAddress, check_components, drain_s, run_folder, told
from services.kit.errors import StartupError


def test_the_ports_are_8001_and_8000_unless_told_otherwise() -> None:
    assert GatewayAddress.of({}) == GatewayAddress("127.0.0.1", 8001, 8000)
    told = {"TRIVIUM_GATEWAY__GRPC_PORT": "9001", "TRIVIUM_GATEWAY__HTTP_PORT": "9000"}
    assert GatewayAddress.of(told) == GatewayAddress("127.0.0.1", 9001, 9000)


def test_the_gateways_own_file_counts_and_the_environment_counts_more(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('host = "0.0.0.0"\ngrpc_port = 7001\nhttp_port = 7000\n')
    environ = {"TRIVIUM_GATEWAY__CONFIG": str(config), "TRIVIUM_GATEWAY__HTTP_PORT": "7100"}
    address = GatewayAddress.of(environ)
    assert (address.grpc_port, address.http_port) == (7001, 7100)
    assert address.grpc == "127.0.0.1:7001"  # where this machine reaches every address


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", ""])
@pytest.mark.parametrize("name", ["TRIVIUM_GATEWAY__GRPC_PORT", "TRIVIUM_GATEWAY__HTTP_PORT"])
def test_a_port_that_is_none_is_refused_by_name(name: str, port: str) -> None:
    with pytest.raises(StartupError, match=name):
        GatewayAddress.of({name: port})


def test_a_free_port_is_refused_with_a_way_out() -> None:
    with pytest.raises(StartupError) as caught:
        GatewayAddress.of({"TRIVIUM_GATEWAY__GRPC_PORT": "0"})
    assert "TRIVIUM_GATEWAY__GRPC_PORT=8101" in caught.value.hint


def test_what_the_gateway_would_refuse_is_refused_in_its_words() -> None:
    with pytest.raises(StartupError, match="TRIVIUM_GATEWAY__GPRC_PORT") as caught:
        GatewayAddress.of({"TRIVIUM_GATEWAY__GPRC_PORT": "9001"})
    assert "TRIVIUM_GATEWAY__GRPC_PORT" in caught.value.hint


def test_the_run_directory_is_named_after_the_port_unless_told_otherwise(tmp_path: Path) -> None:
    assert run_folder({}) == ROOT / ".run" / "8001"
    assert run_folder({"TRIVIUM_GATEWAY__GRPC_PORT": "9001"}) == ROOT / ".run" / "9001"
    assert run_folder({"TRIVIUM_RUN_DIR": f"{tmp_path}/a run"}) == tmp_path / "a run"


def test_the_time_to_drain_is_the_components_own() -> None:
    assert drain_s("vision", {"TRIVIUM_VISION__DRAIN_S": "30"}) == 30
    assert drain_s("vision", {"TRIVIUM_VISION__DRAIN_S": "soon"}) == 8
    assert drain_s("vision", {}) == 8


def test_a_key_is_looked_up_in_the_environment_and_then_in_the_file(tmp_path: Path) -> None:
    config = tmp_path / "vision.toml"
    config.write_text('drain_s = 30\n[log]\ncalls = "all"\n')
    environ = {"TRIVIUM_VISION__CONFIG": str(config), "TRIVIUM_VISION__LOG__LEVEL": "debug"}
    assert drain_s("vision", environ) == 30
    assert drain_s("vision", environ | {"TRIVIUM_VISION__DRAIN_S": "5"}) == 5
    assert told("vision", "log.calls", environ) == "all"
    assert told("vision", "log.level", environ) == "debug"
    assert told("vision", "drain_s.none", environ) is None
    assert told("vision", "log.calls", {"TRIVIUM_VISION__CONFIG": str(tmp_path / "none")}) is None


def test_a_setting_of_no_component_is_found_before_anything_starts() -> None:
    environ = {"TRIVIUM_VISION__HOST": "127.0.0.1", "TRIVIUM_RUN_DIR": "/x", "TRIVIUM_ADDRESS": "localhost:8001"}
    check_components(environ, {"gateway", "vision", "sequence"})
    with pytest.raises(StartupError, match="TRIVIUM_SEQENCE__DEFAULT_MODEL is a setting of no component") as error:
        check_components(environ | {"TRIVIUM_SEQENCE__DEFAULT_MODEL": "x"}, {"gateway", "vision", "sequence"})
    assert "TRIVIUM_SEQUENCE__" in error.value.hint
