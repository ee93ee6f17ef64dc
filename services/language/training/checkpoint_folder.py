"""Folder: the files of a checkpoint as Hugging Face's libraries lay them out."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from services.kit.errors import StartupError

CONFIG, GENERATION, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"
TOKENIZER, WEIGHTS, INDEX = "tokenizer.json", "model.safetensors", "model.safetensors.index.json"
FILES = f"a checkpoint is a folder with {CONFIG}, {TOKENIZER} and {WEIGHTS}, or {INDEX} and the files it names"


class Folder:
    """A checkpoint on disk; weights are read when they are asked for.

    Raises:
        StartupError: of every method too: a file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise StartupError(f"{path} is no folder", hint=FILES)
        self.path = path
        self.config = self.document(CONFIG)
        self._files = self._find_weights()

    def document(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        """A JSON object; empty where an optional file is missing."""
        try:
            found = json.loads(self.content(name))
        except ValueError as error:
            raise StartupError(f"{self.path / name}: is no JSON: {error}", hint="copy the file again") from error
        except StartupError:
            if optional and not (self.path / name).exists():
                return {}
            raise
        if not isinstance(found, dict):
            raise StartupError(f"{self.path / name}: is no JSON object", hint="copy the file again")
        return found

    def content(self, name: str) -> bytes:
        """The bytes of a file."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise StartupError(f"{self.path / name}: is missing", hint=FILES) from None
        except OSError as error:
            raise StartupError(f"{self.path / name}: cannot be read: {error}", hint=FILES) from error

    @property
    def tensors(self) -> Mapping[str, Path]:
        """The names of all weights, and where each of them is."""
        return self._files

    def tensor(self, name: str) -> Tensor:
        """A weight, in the type that it is stored in."""
        with _opened(self._files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def _find_weights(self) -> dict[str, Path]:
        if (self.path / INDEX).exists():
            names = self.document(INDEX).get("weight_map")
            if not isinstance(names, dict) or not names:
                raise StartupError(f"{self.path / INDEX}: weight_map is missing", hint="copy the file again")
            files = {self.path / str(file) for file in names.values()}
        else:
            files = {self.path / WEIGHTS}
        return {name: file for file in sorted(files) for name in _names(file)}


def _names(file: Path) -> Iterator[str]:
    if not file.exists():
        legacy = sorted(other.name for other in file.parent.glob("pytorch_model*.bin"))
        hint = f"{legacy[0]} is the older format: save the model again as safetensors" if legacy else FILES
        raise StartupError(f"{file}: is missing", hint=hint)
    with _opened(file) as opened:
        yield from opened.keys()


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (OSError, SafetensorError) as error:
        raise StartupError(f"{file}: cannot be read: {error}", hint="copy the file again") from error
