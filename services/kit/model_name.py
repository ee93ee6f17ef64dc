"""ModelName: how callers name a model in field 1 of a typed request; and what is a bundle's name and a version."""

import re
from dataclasses import dataclass

from services.kit.errors import InvalidField

MAX_LENGTH = 256
BUNDLE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
VERSION = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A bundle's name with, at most one of them, a version or a label; an empty name is the service's default."""

    name: str = ""
    version: int | None = None
    label: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """ "name", "name:version" or "name@label".

        Raises:
            InvalidField: the version is no positive decimal number, or a part is missing.
        """
        if len(text) > MAX_LENGTH:
            message = f"model has {len(text)} characters, and a model's name has at most {MAX_LENGTH}"
            raise InvalidField(message, field="model", limit=str(MAX_LENGTH), value=str(len(text)))
        name, colon, version = text.partition(":")
        if colon:
            number = version_number(version)
            if not name or number is None:
                raise _malformed(text, "name:version with a version of 1 or more")
            return cls(name, version=number)
        name, at, label = text.partition("@")
        if at and not (name and label):
            raise _malformed(text, "name@label")
        return cls(name, label=label or None)

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.label}" if self.label else self.name


def version_number(text: str) -> int | None:
    """The version: a decimal number of 1 or more, leading zeros or not; None for any other text."""
    return (int(text) or None) if VERSION.fullmatch(text) else None


def bundle_name(text: str, field: str = "model") -> str:
    """`text`, if bundles may be called so.

    Raises:
        InvalidField: it is a path, has a version or a label, or other characters that no name has.
    """
    if not BUNDLE_NAME.fullmatch(text):
        raise InvalidField(
            f"{text[:64]!r} is no name of a bundle: it takes the name alone, without path, version or label",
            field=field,
            limit=BUNDLE_NAME.pattern,
            value=text[:64],
        )
    return text


def _malformed(text: str, form: str) -> InvalidField:
    message = f"model is {text!r}, which is not {form}: it is NAME, NAME:VERSION or NAME@LABEL"
    return InvalidField(message, field="model", limit=form, value=text)
