"""The file of defaults says what the defaults are, and all of them."""

import tomllib
from pathlib import Path

from gateway.settings import GatewaySettings
from services.kit.settings import keys, load

CONFIG = Path(__file__).parents[3] / "deploy/config/gateway.toml"


def test_the_file_of_defaults_changes_nothing() -> None:
    assert load(GatewaySettings, "gateway", {"TRIVIUM_GATEWAY__CONFIG": str(CONFIG)}) == GatewaySettings()


def test_the_file_of_defaults_names_every_setting() -> None:
    content = tomllib.loads(CONFIG.read_text("utf-8"))
    named = {key for key, value in content.items() if not isinstance(value, dict)}
    named |= {f"{section}.{key}" for section, table in content.items() if isinstance(table, dict) for key in table}
    assert named == set(keys(GatewaySettings))
