"""manifest.json, read and written."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.kit.errors import StartupError
from services.kit.inference import strict_json
from services.kit.inference.manifest import Manifest
from services.kit.inference.manifest_check import check
from services.kit.inference.strict_json import Mismatch


def load(path: Path) -> Manifest:
    """The manifest in the file `path`.

    Raises:
        StartupError: names the file and the key that is missing, unknown, of a wrong type or in contradiction.
    """
    try:
        manifest = strict_json.read(Manifest, path.read_text("utf-8"))
        check(manifest)
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"{path}: cannot be read: {error}", hint="a bundle is NAME/VERSION/manifest.json") from error
    except Mismatch as error:
        raise StartupError(f"{path}: {error}", hint="correct the manifest, or export the model again") from error
    return manifest


def to_json(manifest: Manifest) -> str:
    """The text of manifest.json; `load` gives the same manifest back."""
    text = json.dumps(_without_none(dataclasses.asdict(manifest)), indent=2, ensure_ascii=False)
    on_one_line = re.sub(r"\[\n\s+([-+.\w]+(?:,\n\s+[-+.\w]+)*)\n\s+\]", _joined, text)
    return f"{on_one_line}\n"


def _joined(numbers: re.Match[str]) -> str:
    return "[" + re.sub(r",\n +", ", ", numbers[1]) + "]"


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
