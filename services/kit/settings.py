"""Settings: frozen dataclasses filled from defaults < a TOML file < the environment.

`load(VisionSettings, "vision")` reads `TRIVIUM_VISION__GRPC_PORT=9000` into `grpc_port` and
`TRIVIUM_VISION__BATCHER__MAX_BATCH=8` into `batcher.max_batch`. `TRIVIUM_VISION__CONFIG` names the file, whose tables
are the same sections. A key that the class does not have stops the start-up, and so does a value out of range.
"""

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from services.kit.errors import SettingsError

TRUE_WORDS, FALSE_WORDS = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
OF_KUBERNETES = ("tcp://", "udp://", "sctp://")  # what it says where a Service has the name of a setting
T = TypeVar("T")


def setting(default: Any, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with a default and, both ends included, the range that `load` enforces."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


def load(cls: type[T], component: str, environ: Mapping[str, str] | None = None) -> T:
    """An instance of the frozen dataclass `cls`.

    Raises:
        SettingsError: an unknown key, or one with too few underscores; a value of the wrong type or out of its range;
            an unreadable file.
    """
    environ = os.environ if environ is None else environ
    prefix = f"TRIVIUM_{component.upper()}__"
    config = f"{prefix}CONFIG"
    values: dict[str, tuple[str, object]] = {}
    if environ.get(config):
        values.update(_from_file(Path(environ[config]), config))
    values.update(
        (name.removeprefix(prefix).lower().replace("__", "."), (name, value))
        for name, value in environ.items()
        if name.startswith(prefix) and name != config
    )
    known = set(keys(cls))
    spelt = {meant.replace("__", "_"): meant for meant in (variable(component, key) for key in (*known, "config"))}
    for name, text in environ.items():
        meant = spelt.get(name.replace("__", "_"), name)
        if meant != name and not name.startswith(prefix) and not text.startswith(OF_KUBERNETES):
            raise SettingsError(f"unknown setting {name}", hint=f"did you mean {meant}?")
    for key, (source, _) in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {variable(component, near[0])}?" if near else f"known: {', '.join(sorted(known))}"
            raise SettingsError(f"unknown setting {source}", hint=hint)
    return _build(cls, values, "")


def keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Every key of the settings class, sections dotted: `grpc_port`, `batcher.max_batch`."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from keys(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def variable(component: str, key: str) -> str:
    """The environment variable of a key: ("vision", "batcher.max_batch") -> TRIVIUM_VISION__BATCHER__MAX_BATCH."""
    return f"TRIVIUM_{component.upper()}__{key.replace('.', '__').upper()}"


def _from_file(path: Path, config: str) -> Iterator[tuple[str, tuple[str, object]]]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(
            f"{config}: cannot read {path}: {error}", hint="give the path of a readable TOML file"
        ) from error
    return _flatten(content, path)


def _flatten(table: Mapping[str, Any], path: Path, prefix: str = "") -> Iterator[tuple[str, tuple[str, object]]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, path, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", (f"{prefix}{key} in {path}", value)


def _build(cls: type[T], values: Mapping[str, tuple[str, object]], prefix: str, owner: T | None = None) -> T:
    """The class with these values; what is not given is as in `owner`, the section that its owner has by default."""
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            section = _default(field) if owner is None else getattr(owner, field.name)
            arguments[field.name] = _build(typing.cast(type, hint), values, f"{key}.", section)
        elif key in values:
            source, value = values[key]
            arguments[field.name] = _checked(_convert(value, hint, source), field.metadata, source)
    if owner is None:
        return cls(**arguments)
    return typing.cast(T, dataclasses.replace(typing.cast(Any, owner), **arguments))


def _default(field: "dataclasses.Field[Any]") -> Any:
    """The section that a settings class has by default; None where it says nothing of it."""
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _checked(value: Any, bounds: Mapping[str, Any], source: str) -> Any:
    low, high = bounds.get("low"), bounds.get("high")
    if value is not None and ((low is not None and not value >= low) or (high is not None and not value <= high)):
        raise SettingsError(f"{source} is {value}", hint=f"it must lie in [{low}, {'...' if high is None else high}]")
    return value


def _convert(value: object, hint: Any, source: str) -> Any:
    """`value` (text, or what TOML gave) as the field's type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value == "" else _convert(value, next(a for a in arguments if a is not type(None)), source)
    if origin is Literal:
        if value not in arguments:
            raise SettingsError(f"{source} is {value!r}", hint=f"it must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        items = [part for part in value.split(":") if part] if isinstance(value, str) else value
        return tuple(_convert(item, arguments[0], source) for item in typing.cast(list[object], items))
    try:
        return _scalar(value, hint)
    except (ValueError, TypeError):
        raise SettingsError(f"{source} is {value!r}", hint=f"it must be of type {hint.__name__}") from None


def _scalar(value: object, hint: Any) -> object:
    if hint is bool:
        word = str(value).lower()
        if word not in TRUE_WORDS + FALSE_WORDS:
            raise ValueError
        return word in TRUE_WORDS
    if hint is int and not isinstance(value, str | int):
        raise TypeError
    if hint is float and str(value).lower().strip("+-") == "nan":
        raise ValueError
    return hint(value)
