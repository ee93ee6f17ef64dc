"""The programs of a suite."""

from pathlib import Path

from deploy.local.settings import GatewayAddress
from deploy.local.suite import gateway_program, service_names, service_program

CONSUL = "http://127.0.0.1:1"


def test_every_folder_that_can_be_run_is_a_service(tmp_path: Path) -> None:
    for name in ("vision", "audio", "kit"):
        (tmp_path / name).mkdir()
    for name in ("vision", "audio"):
        (tmp_path / name / "__main__.py").touch()
    assert service_names(tmp_path) == ["audio", "vision"]


def test_a_service_keeps_its_name_and_hears_of_this_runs_consul_and_of_the_callers_settings() -> None:
    environ = {"TRIVIUM_VISION__BUNDLES_DIR": "/mine", "TRIVIUM_VISION__CONSUL__ADDRESS": "http://other:1"}
    program = service_program("vision", 2, CONSUL, environ, cpu=False)
    assert (program.component, program.instance) == ("vision", "vision-2")
    assert program.command[1:] == ("-m", "services.vision")
    assert program.environment["TRIVIUM_VISION__INSTANCE"] == "vision-2"
    assert program.environment["TRIVIUM_VISION__CONSUL__ADDRESS"] == CONSUL
    assert program.environment["TRIVIUM_VISION__BUNDLES_DIR"] == "/mine"
    assert "TRIVIUM_VISION__ENGINE__DEVICE" not in program.environment


def test_without_a_gpu_services_are_told_to_use_the_cpu() -> None:
    environ = {"TRIVIUM_VISION__ENGINE__DEVICE": "cuda"}
    program = service_program("vision", 1, CONSUL, environ, cpu=True)
    assert program.environment["TRIVIUM_VISION__ENGINE__DEVICE"] == "cpu"


def test_the_gateway_listens_where_the_run_says() -> None:
    program = gateway_program(CONSUL, {}, GatewayAddress("127.0.0.1", 9001, 9000))
    told = {key: value for key, value in program.environment.items() if key.endswith("_PORT")}
    assert told == {"TRIVIUM_GATEWAY__GRPC_PORT": "9001", "TRIVIUM_GATEWAY__HTTP_PORT": "9000"}


def test_the_gateways_own_drain_counts_and_is_short_where_none_is_given(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("drain_s = 2.5\n")

    def drain(environ: dict[str, str]) -> str:
        program = gateway_program(CONSUL, environ, GatewayAddress("127.0.0.1", 9001, 9000))
        return program.environment["TRIVIUM_GATEWAY__DRAIN_S"]

    assert drain({}) == "4"
    assert drain({"TRIVIUM_GATEWAY__CONFIG": str(config)}) == "2.5"
    assert drain({"TRIVIUM_GATEWAY__CONFIG": str(config), "TRIVIUM_GATEWAY__DRAIN_S": "1"}) == "1"


def test_calls_that_succeed_are_logged_only_if_someone_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "all.toml").write_text('[log]\ncalls = "all"\n')
    asked = {f"TRIVIUM_{component}__CONFIG": str(tmp_path / "all.toml") for component in ("GATEWAY", "VISION")}

    def logged(environ: dict[str, str]) -> list[str]:
        gateway = gateway_program(CONSUL, environ, GatewayAddress("127.0.0.1", 9001, 9000))
        service = service_program("vision", 1, CONSUL, environ, cpu=False)
        return [
            gateway.environment["TRIVIUM_GATEWAY__LOG__CALLS"],
            service.environment["TRIVIUM_VISION__LOG__CALLS"],
        ]

    assert logged({}) == ["failed", "failed"]
    assert logged({"TRIVIUM_VISION__LOG__CALLS": "none"}) == ["failed", "none"]
    assert logged(asked) == ["all", "all"]
