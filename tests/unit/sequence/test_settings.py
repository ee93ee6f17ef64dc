"""The file of defaults tells the truth."""

import itertools
import re
import tomllib
from pathlib import Path

from services.kit.settings import keys, load
from services.sequence.settings import SequenceSettings

DEFAULTS = Path(__file__).resolve().parents[3] / "deploy" / "config" / "sequence.toml"


def test_the_file_of_defaults_loads_and_changes_nothing() -> None:
    assert load(SequenceSettings, "sequence", {"TRIVIUM_SEQUENCE__CONFIG": str(DEFAULTS)}) == SequenceSettings()


def test_the_file_of_defaults_names_every_setting_with_a_comment_above() -> None:
    text = DEFAULTS.read_text("utf-8")
    content = tomllib.loads(text)
    named = {key for key, value in content.items() if not isinstance(value, dict)}
    named |= {f"{section}.{key}" for section, table in content.items() if isinstance(table, dict) for key in table}
    assert named == set(keys(SequenceSettings))
    for before, line in itertools.pairwise(text.splitlines()):
        if re.match(r"\w+ =", line):
            assert before.startswith("#"), line


def test_without_a_file_this_services_own_defaults_hold_and_not_those_of_the_section() -> None:
    assert load(SequenceSettings, "sequence", {}) == SequenceSettings()
    changed = load(SequenceSettings, "sequence", {"TRIVIUM_SEQUENCE__BATCHER__MAX_QUEUE": "7"})
    assert (changed.batcher.max_batch, changed.batcher.max_queue) == (64, 7)
