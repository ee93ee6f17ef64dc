"""The file of defaults tells the truth."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest

from services.kit.errors import StartupError
from services.kit.settings import keys, load
from services.language.settings import LanguageSettings

DEFAULTS = Path(__file__).resolve().parents[3] / "deploy" / "config" / "language.toml"


def test_the_file_of_defaults_loads_and_changes_nothing() -> None:
    assert load(LanguageSettings, "language", {"TRIVIUM_LANGUAGE__CONFIG": str(DEFAULTS)}) == LanguageSettings()


def test_the_file_of_defaults_names_every_setting_with_a_comment_above() -> None:
    text = DEFAULTS.read_text("utf-8")
    content = tomllib.loads(text)
    named = {key for key, value in content.items() if not isinstance(value, dict)}
    named |= {f"{section}.{key}" for section, table in content.items() if isinstance(table, dict) for key in table}
    assert named == set(keys(LanguageSettings))
    for before, line in itertools.pairwise(text.splitlines()):
        if re.match(r"\w+ =", line):
            assert before.startswith("#"), line


@pytest.mark.parametrize(("key", "value"), [("MAX_TEXTS", "0"), ("CACHE_MIB", "0"), ("CHUNK_TOKENS", "-1")])
def test_what_leaves_no_room_for_a_text_is_no_setting(key: str, value: str) -> None:
    with pytest.raises(StartupError, match=key):
        load(LanguageSettings, "language", {f"TRIVIUM_LANGUAGE__GENERATION__{key}": value})
