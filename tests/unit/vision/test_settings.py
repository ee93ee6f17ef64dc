"""What an operator can set, and that the file of defaults tells the truth."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest

from services import vision
from services.kit.errors import StartupError
from services.kit.inference import strict_json
from services.kit.inference.manifest import Manifest
from services.kit.inference.manifest_check import check
from services.kit.settings import keys, load
from services.vision.pipeline import classifies
from services.vision.settings import VisionSettings

DEFAULTS = Path(__file__).resolve().parents[3] / "deploy" / "config" / "vision.toml"


def test_the_file_of_defaults_loads_and_changes_nothing() -> None:
    assert load(VisionSettings, "vision", {"TRIVIUM_VISION__CONFIG": str(DEFAULTS)}) == VisionSettings()


def test_the_file_of_defaults_names_every_setting_with_a_comment_above() -> None:
    text = DEFAULTS.read_text("utf-8")
    content = tomllib.loads(text)
    named = {key for key, value in content.items() if not isinstance(value, dict)}
    named |= {f"{section}.{key}" for section, table in content.items() if isinstance(table, dict) for key in table}
    assert named == set(keys(VisionSettings))
    lines = text.splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"\w+ =", line):
            assert before.startswith("#"), line


def test_the_environment_wins_over_the_file() -> None:
    environ = {
        "TRIVIUM_VISION__CONFIG": str(DEFAULTS),
        "TRIVIUM_VISION__BUNDLES_DIR": "/a:/b",
        "TRIVIUM_VISION__DECODER__MAX_BYTES": "1000",
        "TRIVIUM_VISION__ENGINE__DEVICE": "cpu",
    }
    loaded = load(VisionSettings, "vision", environ)
    assert loaded.bundles_dir == (Path("/a"), Path("/b"))
    assert (loaded.decoder.max_bytes, loaded.engine.device) == (1000, "cpu")


@pytest.mark.parametrize(
    "key", ["DECODER__MAX_BYTES", "DECODER__MAX_PIXELS", "DECODER__THREADS", "DECODER__MAX_QUEUE", "STREAM_WINDOW"]
)
def test_a_limit_below_its_range_stops_the_start(key: str) -> None:
    with pytest.raises(StartupError, match=key):
        load(VisionSettings, "vision", {f"TRIVIUM_VISION__{key}": "-1"})


def test_models_come_from_the_default_folder_and_those_of_the_operator() -> None:
    settings = VisionSettings(bundles_dir=(Path("/mine"),), default_model="mine")
    models = settings.models("vision", Path("/default"))
    assert models.folders == (Path("/default"), Path("/mine"))
    assert (models.service, models.default_model) == ("vision", "mine")


def test_the_manifest_in_the_readme_is_one_that_loads() -> None:
    readme = Path(vision.__file__).with_name("README.md").read_text("utf-8")
    text = readme.split("```json\n")[1].split("```")[0].replace("<SHA-256>", "0" * 64)
    manifest = strict_json.read(Manifest, text)
    check(manifest)
    assert classifies(manifest)


def test_the_readme_names_settings_that_exist() -> None:
    readme = Path(vision.__file__).with_name("README.md").read_text("utf-8")
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*(?:__[A-Z_]+)?)`", readme))
    assert named <= {key.upper().replace(".", "__") for key in keys(VisionSettings)}
    assert len(named) > 8
