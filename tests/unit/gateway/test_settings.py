"""The file of defaults says what the defaults are, and all of them."""

import tomllib
from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from services.kit.errors import StartupError
from services.kit.settings import keys, load

CONFIG = Path(__file__).parents[3] / "deploy/config/gateway.toml"


def test_the_file_of_defaults_changes_nothing() -> None:
    assert load(GatewaySettings, "gateway", {"TRIVIUM_GATEWAY__CONFIG": str(CONFIG)}) == GatewaySettings()


def test_the_file_of_defaults_names_every_setting() -> None:
    content = tomllib.loads(CONFIG.read_text("utf-8"))
    named = {key for key, value in content.items() if not isinstance(value, dict)}
    named |= {f"{section}.{key}" for section, table in content.items() if isinstance(table, dict) for key in table}
    assert named == set(keys(GatewaySettings))


@pytest.mark.parametrize(
    ("key", "value"),
    [("MAX_MESSAGE_BYTES", "0"), ("CONNECT_TIMEOUT_S", "0"), ("KEEPALIVE_S", "1"), ("KEEPALIVE_TIMEOUT_S", "-1")],
)
def test_a_connection_that_cannot_work_is_no_setting(key: str, value: str) -> None:
    with pytest.raises(StartupError, match=key):
        load(GatewaySettings, "gateway", {f"TRIVIUM_GATEWAY__CONNECTIONS__{key}": value})
