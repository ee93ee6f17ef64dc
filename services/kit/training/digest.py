"""One digest of everything that goes into a training: equal digests mean that training again would change nothing."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]  # of the repository


def training_digest(
    parameters: Mapping[str, object], sources: Sequence[Path], data: Sequence[Path], packages: Sequence[str]
) -> str:
    """SHA-256 in hexadecimal digits.

    Args:
        parameters: hyperparameters; JSON.
        sources: Python files within the repository; line endings do not count.
        data: files that are read as they are.
        packages: libraries whose version changes the result.
    """
    content = {
        "parameters": parameters,
        "sources": {path.relative_to(ROOT).as_posix(): _sha256(path.read_text("utf-8").encode()) for path in sources},
        "data": [_sha256(path.read_bytes()) for path in data],
        "packages": versions(packages),
    }
    return _sha256(json.dumps(content, sort_keys=True).encode())


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions, without the suffix that names a build: "2.13.0" for "2.13.0+cpu"."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in packages}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
