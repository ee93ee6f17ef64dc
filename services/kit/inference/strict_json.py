"""JSON read into frozen dataclasses: a missing key, an unknown one or a wrong type is an error that names the key."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class Mismatch(ValueError):
    """The text is no JSON, or not what the class wants. The message begins with the key, written `metrics.samples`."""


def read(cls: type[T], text: str) -> T:
    """An instance of the dataclass `cls`; fields with a default may be absent.

    Field types may be str, int, float, bool, Literal, tuple[X, ...], Mapping[str, X], dataclasses and X | None.

    Raises:
        Mismatch: says which key is wrong and what it should be.
    """
    return typing.cast(T, _convert(cls, _parsed(text), ""))


def read_mapping(hint: type[T], text: str) -> dict[str, T]:
    """A JSON object whose values are of one type.

    Raises:
        Mismatch: as for `read`.
    """
    return typing.cast(dict[str, T], _mapping(hint, _parsed(text), ""))


def _parsed(text: str) -> object:
    try:
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise Mismatch(f"this is not the JSON that is wanted: {error}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise Mismatch(f"{key}: occurs twice")
        result[key] = value
    return result


def _refused(constant: str) -> None:
    raise Mismatch(f"{constant} is no JSON number")


def _convert(hint: Any, value: object, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _instance(typing.cast(type, hint), value, key)
    if origin in (types.UnionType, typing.Union):
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _convert(inner, value, key)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise Mismatch(f"{key}: {value!r} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise Mismatch(f"{key}: {value!r} is no list")
        return tuple(_convert(arguments[0], item, f"{key}[{index}]") for index, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(arguments[1], value, key)
    return _scalar(hint, value, key)


def _instance(cls: type, value: object, key: str) -> Any:
    if not isinstance(value, dict):
        raise Mismatch(f"{key or 'the file'}: {value!r} is no object")
    hints, fields = typing.get_type_hints(cls), {field.name: field for field in dataclasses.fields(cls)}
    for name in value:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            raise Mismatch(f"{_join(key, name)}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
    for name, field in fields.items():
        if name not in value and field.default is field.default_factory is dataclasses.MISSING:
            raise Mismatch(f"{_join(key, name)}: missing")
    return cls(**{name: _convert(hints[name], item, _join(key, name)) for name, item in value.items()})


def _mapping(hint: Any, value: object, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Mismatch(f"{key or 'the file'}: {value!r} is no object")
    return {name: _convert(hint, item, _join(key, name)) for name, item in value.items()}


def _scalar(hint: type, value: object, key: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise Mismatch(f"{key}: {value!r} is not of type {hint.__name__}")
    return value


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
