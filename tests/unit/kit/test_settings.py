from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from services.kit.errors import SettingsError, StartupError
from services.kit.process import ProcessSettings
from services.kit.settings import keys, load, setting, variable


@dataclass(frozen=True, slots=True)
class Batcher:
    max_batch: int = setting(16, low=1)
    max_wait_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Example:
    device: Literal["auto", "cpu"] = "auto"
    bundles_dir: tuple[Path, ...] = ()
    health_port: int | None = None
    verbose: bool = False
    batcher: Batcher = field(default_factory=Batcher)


def test_nothing_set_gives_the_defaults() -> None:
    assert load(Example, "vision", {}) == Example()


def test_the_environment_overrides_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    config = tmp_path / "vision.toml"
    config.write_text('device = "cpu"\n[batcher]\nmax_batch = 4\nmax_wait_ms = 1.5\n')
    environ = {"TRIVIUM_VISION__CONFIG": str(config), "TRIVIUM_VISION__BATCHER__MAX_BATCH": "8"}
    assert load(Example, "vision", environ) == Example(device="cpu", batcher=Batcher(8, 1.5))


def test_other_components_settings_are_not_ours() -> None:
    assert load(Example, "vision", {"TRIVIUM_GATEWAY__NONSENSE": "1", "PATH": "/bin"}) == Example()


def test_every_type_is_read_from_text() -> None:
    environ = {
        "TRIVIUM_VISION__BUNDLES_DIR": "/a:/b with space:",
        "TRIVIUM_VISION__HEALTH_PORT": "9000",
        "TRIVIUM_VISION__VERBOSE": "On",
    }
    loaded = load(Example, "vision", environ)
    assert loaded.bundles_dir == (Path("/a"), Path("/b with space"))
    assert loaded.health_port == 9000
    assert loaded.verbose is True
    assert load(Example, "vision", {"TRIVIUM_VISION__HEALTH_PORT": ""}).health_port is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("BATCHR__MAX_BATCH", "8", "TRIVIUM_VISION__BATCHER__MAX_BATCH"),
        ("NONSENSE", "8", "known:"),
        ("BATCHER__MAX_BATCH", "0", "[1,"),
        ("BATCHER__MAX_BATCH", "many", "int"),
        ("BATCHER__MAX_WAIT_MS", "nan", "float"),
        ("DEVICE", "tpu", "auto, cpu"),
        ("VERBOSE", "maybe", "bool"),
        ("CONFIG", "/nowhere.toml", "readable"),
    ],
)
def test_a_mistake_stops_the_start_and_says_what_to_do(name: str, value: str, says: str) -> None:
    with pytest.raises(StartupError) as caught:
        load(Example, "vision", {f"TRIVIUM_VISION__{name}": value})
    assert name in str(caught.value)
    assert says in caught.value.hint


@pytest.mark.parametrize(
    "name", ["TRIVIUM_VISION_BATCHER__MAX_BATCH", "TRIVIUM_VISION_BATCHER_MAX_BATCH", "TRIVIUM_VISION_CONFIG"]
)
def test_a_setting_with_too_few_underscores_is_not_passed_over(name: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        load(Example, "vision", {name: "8"})
    meant = "CONFIG" if name.endswith("CONFIG") else "BATCHER__MAX_BATCH"
    assert caught.value.hint == f"did you mean TRIVIUM_VISION__{meant}?"


def test_what_kubernetes_says_of_its_services_is_no_setting() -> None:
    said = {
        "TRIVIUM_VISION_SERVICE_HOST": "10.0.0.1",
        "TRIVIUM_VISION_PORT_8001_TCP_PORT": "8001",
        "TRIVIUM_VISION_GRPC_PORT": "tcp://10.0.0.1:8001",
    }
    assert load(ProcessSettings, "vision", said) == load(ProcessSettings, "vision", {})


def test_a_mistake_in_the_file_names_the_file(tmp_path: Path) -> None:
    config = tmp_path / "vision.toml"
    config.write_text("[batcher]\nmax_bach = 4\n")
    with pytest.raises(StartupError, match=r"batcher\.max_bach in .*vision\.toml"):
        load(Example, "vision", {"TRIVIUM_VISION__CONFIG": str(config)})


def test_every_process_setting_has_a_variable() -> None:
    names = {variable("gateway", key) for key in keys(ProcessSettings)}
    for expected in ("HOST", "GRPC_PORT", "HTTP_PORT", "HEALTH_PORT", "ADVERTISE_ADDRESS", "CONSUL__ADDRESS"):
        assert f"TRIVIUM_GATEWAY__{expected}" in names


def test_listening_everywhere_needs_an_address_to_advertise() -> None:
    with pytest.raises(SettingsError, match="ADVERTISE_ADDRESS"):
        ProcessSettings(host="0.0.0.0").advertised_host()
    assert ProcessSettings(host="0.0.0.0", advertise_address="10.0.0.7").advertised_host() == "10.0.0.7"


def test_auto_advertises_what_the_name_of_the_machine_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "4f1c0ffee")
    monkeypatch.setattr("socket.gethostbyname", {"4f1c0ffee": "172.18.0.5"}.__getitem__)
    assert ProcessSettings(host="0.0.0.0", advertise_address="auto").advertised_host() == "172.18.0.5"


@pytest.mark.parametrize("address", ["127.0.1.1", None])
def test_auto_is_refused_where_nobody_else_could_dial_it(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(name: str) -> str:
        if address is None:
            raise OSError
        return address

    monkeypatch.setattr("socket.gethostbyname", look_up)
    with pytest.raises(StartupError, match=address or "nothing"):
        ProcessSettings(host="0.0.0.0", advertise_address="auto").advertised_host()
