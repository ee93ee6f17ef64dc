"""Bundle: a folder NAME/VERSION/ with model.onnx, manifest.json and known_answers.npz.

NAME/labels.json maps version labels to versions: {"stable": 2, "canary": 3}.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.kit.errors import SettingsError, StartupError
from services.kit.inference import manifest_file, strict_json
from services.kit.inference.manifest import Manifest, TensorSpec
from services.kit.model_name import BUNDLE_NAME

__all__ = ["Array", "Bundle", "Manifest", "TensorSpec"]

Array = np.ndarray[Any, np.dtype[Any]]

MODEL, MANIFEST, KNOWN_ANSWERS, LABELS = "model.onnx", "manifest.json", "known_answers.npz", "labels.json"
VERSION = re.compile(r"[1-9][0-9]{0,8}")
FOLDERS = "BUNDLES_DIR names folders that exist and that this user may read, separated by ':'"


@dataclass(frozen=True, slots=True)
class Bundle:
    """One version of one model, as it lies on disk."""

    name: str
    version: int
    path: Path  # of the folder NAME/VERSION
    manifest: Manifest


def discover(folders: Sequence[Path], service: str) -> list[Bundle]:
    """The bundles of `service` in all folders, by name and version; those of other services are passed over.

    Raises:
        StartupError: a folder that cannot be read, a wrong name, version or manifest, the same NAME/VERSION twice.
    """
    found: dict[tuple[str, int], Bundle] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for path in _bundle_paths(folder):
            bundle = load(path)
            if bundle.manifest.service != service:
                continue
            twin = found.setdefault((bundle.name, bundle.version), bundle)
            if twin is not bundle:
                raise StartupError(
                    f"bundle {bundle.name}/{bundle.version} exists twice: {twin.path} and {path}",
                    hint="take one of them away, or give it another version",
                )
    return [found[key] for key in sorted(found)]


def load(path: Path) -> Bundle:
    """The bundle in the folder NAME/VERSION.

    Raises:
        StartupError: name, version or manifest are not as they must be.
    """
    name, version = path.parent.name, path.name
    if not BUNDLE_NAME.fullmatch(name):
        raise StartupError(f"{path}: {name!r} is no name for a bundle", hint=f"names match {BUNDLE_NAME.pattern}")
    if not VERSION.fullmatch(version):
        raise StartupError(f"{path}: {version!r} is no version", hint="versions are 1, 2, 3, ...")
    return Bundle(name, int(version), path, manifest_file.load(path / MANIFEST))


def labels(folder: Path) -> dict[str, int]:
    """Version labels of the bundle whose versions lie in the folder NAME; empty where there is no labels.json.

    Raises:
        StartupError: the file cannot be read, or maps something else than labels to versions.
    """
    path = folder / LABELS
    try:
        found = strict_json.read_mapping(int, path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StartupError(f"{path}: {error}", hint='labels.json holds labels and versions: {"stable": 1}') from error
    for label, version in found.items():
        if not BUNDLE_NAME.fullmatch(label) or version < 1:
            raise StartupError(
                f"{path}: {label!r}: {version} is no label with a version", hint=f"labels match {BUNDLE_NAME.pattern}"
            )
    return found


def verify_files(bundle: Bundle) -> None:
    """Compares every file of the bundle with its checksum.

    Raises:
        StartupError: a file is missing, differs, or is not listed in the manifest.
    """
    listed = bundle.manifest.files
    for name in (MODEL, KNOWN_ANSWERS):
        if name not in listed:
            raise StartupError(f"{bundle.path / MANIFEST}: files.{name}: missing", hint="export the model again")
    with _readable(bundle.path):
        present = {entry.name for entry in bundle.path.iterdir() if not entry.name.startswith(".")} - {MANIFEST}
        for name in sorted(present - set(listed)):
            raise StartupError(f"{bundle.path / name}: is not listed in {MANIFEST}", hint="take the file away")
        for name, expected in listed.items():
            if name not in present:
                raise StartupError(f"{bundle.path / name}: is missing", hint="copy the whole bundle again")
            actual = _sha256(bundle.path / name)
            if actual != expected:
                raise StartupError(
                    f"{bundle.path / name}: its SHA-256 is {actual}, the manifest says {expected}",
                    hint="the file is damaged or was exchanged: copy the bundle again, or export it again",
                )


def known_answers(bundle: Bundle) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs by name, and the outputs that the exported model gave for them; strings are arrays of objects.

    Raises:
        StartupError: the file cannot be read, or has no input or no output.
    """
    path = bundle.path / KNOWN_ANSWERS
    inputs: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for key in stored.files:
                kind, _, name = key.partition(":")
                array = stored[key]
                {"input": inputs, "output": outputs}[kind][name] = (
                    array.astype(object) if array.dtype.kind == "U" else array
                )
    except Exception as error:  # numpy and zipfile raise whatever a damaged file makes them stumble over
        raise StartupError(
            f"{path}: cannot be read: {error}", hint="copy the bundle again, or export it again"
        ) from error
    if not inputs or not outputs:
        raise StartupError(f"{path}: has no input or no output", hint='its keys are "input:NAME" and "output:NAME"')
    return inputs, outputs


def compare_known_answers(
    expected: Mapping[str, Array], actual: Mapping[str, Array], *, rtol: float, atol: float
) -> str | None:
    """The first difference in words; None where |actual - expected| <= atol + rtol * |expected| everywhere."""
    for name, wanted in expected.items():
        got = actual.get(name)
        if got is None:
            return f"output {name!r} is missing"
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            shapes = f"{got.dtype} {list(got.shape)} instead of {wanted.dtype} {list(wanted.shape)}"
            return f"output {name!r} is {shapes}"
        if wanted.dtype.kind == "f":
            close = np.isclose(got, wanted, rtol=rtol, atol=atol, equal_nan=True)
        else:
            close = got == wanted
        if not np.all(close):
            at = tuple(int(index) for index in np.argwhere(~close)[0])
            return f"output {name!r} is {got[at]} instead of {wanted[at]} at {list(at)}, tolerance {rtol}"
    return None


def digest(bundle: Bundle) -> str:
    """SHA-256 in hexadecimal digits of name, version and manifest, hence of every file's checksum."""
    text = f"{bundle.name}/{bundle.version}\n{manifest_file.to_json(bundle.manifest)}"
    return hashlib.sha256(text.encode()).hexdigest()


def write(
    folder: Path,
    name: str,
    version: int,
    *,
    model: bytes,
    manifest: Manifest,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    files: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Writes the bundle `folder`/NAME/VERSION, which appears all at once and replaces an older one.

    Args:
        model: the ONNX file.
        manifest: everything but `files`, which is filled in here.
        inputs, outputs: the known answers.
        files: what else belongs to it, by name: its tokenizer, its encoder.

    Raises:
        StartupError: what was written could not be served.
    """
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=home))
    try:
        (new / MODEL).write_bytes(model)
        arrays = {f"input:{key}": _storable(array) for key, array in inputs.items()}
        arrays |= {f"output:{key}": _storable(array) for key, array in outputs.items()}
        with (new / KNOWN_ANSWERS).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        for file_name, content in (files or {}).items():
            (new / file_name).write_bytes(content)
        sums = {file_name: _sha256(new / file_name) for file_name in (MODEL, KNOWN_ANSWERS, *(files or {}))}
        (new / MANIFEST).write_text(manifest_file.to_json(dataclasses.replace(manifest, files=sums)), "utf-8")
        manifest_file.load(new / MANIFEST)
        new.chmod(0o755)
        _replace(home / str(version), new)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return load(home / str(version))


def write_labels(folder: Path, versions: Mapping[str, int]) -> None:
    """Writes labels.json of the bundle whose versions lie in the folder NAME."""
    new = folder / f".{LABELS}"
    new.write_text(f"{json.dumps(dict(versions))}\n", "utf-8")
    new.replace(folder / LABELS)


def _replace(path: Path, new: Path) -> None:
    """Puts the folder `new` in the place of `path`; a crash leaves the old one, the new one or neither."""
    if not path.exists():
        new.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=".old-", dir=path.parent))
    path.rename(old / path.name)
    new.rename(path)
    shutil.rmtree(old)


def _bundle_paths(folder: Path) -> Iterator[Path]:
    """The folders NAME/VERSION that hold a manifest or a model."""
    with _readable(folder):
        if not folder.is_dir():
            raise SettingsError(f"the bundles in {folder} cannot be read: there is no such folder", hint=FOLDERS)
        _check_level(folder, folder.parent.parent)
        for home in _folders(folder):
            _check_level(home, folder.parent)
            for path in _folders(home):
                if (path / MANIFEST).exists() or (path / MODEL).exists():
                    yield path


def _check_level(folder: Path, meant: Path) -> None:
    if (folder / MANIFEST).exists():
        raise StartupError(
            f"{folder / MANIFEST} does not lie in NAME/VERSION of a folder of bundles",
            hint=f"name the folder that holds NAME/VERSION/{MANIFEST}, which may be {meant}",
        )


def _folders(folder: Path) -> list[Path]:
    """The folders in it, sorted; hidden ones and a file system's lost+found are none of ours."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return [folder / name for name in sorted(names) if not name.startswith(".") and name != "lost+found"]


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartupError(f"the bundles in {folder} cannot be read: {error}", hint=FOLDERS) from error


def _storable(array: Array) -> Array:
    return array.astype(np.str_) if array.dtype.kind == "O" else array


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
