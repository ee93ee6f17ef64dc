"""ModelName: how callers name a model in field 1 of a typed request."""

from dataclasses import dataclass

from services.kit.errors import InvalidField

MAX_LENGTH = 256


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
            raise _invalid(f"a model's name has at most {MAX_LENGTH} characters, got {len(text)}", str(len(text)))
        name, colon, version = text.partition(":")
        if colon:
            if not (name and version.isascii() and version.isdigit() and int(version) > 0):
                raise _invalid(f"{text!r} is not name:version with a version of 1 or more", text)
            return cls(name, version=int(version))
        name, at, label = text.partition("@")
        if at and not (name and label):
            raise _invalid(f"{text!r} is not name@label", text)
        return cls(name, label=label or None)

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.label}" if self.label else self.name


def _invalid(message: str, value: str) -> InvalidField:
    return InvalidField(message, field="model", limit=str(MAX_LENGTH), value=value)
