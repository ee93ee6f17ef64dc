"""How the Open Inference Protocol names a version, and Triton's words for what is wrong with one."""

import re

from services.kit.errors import InvalidField, ModelNotFound
from services.kit.model_name import ModelName

DIGITS = re.compile(r"[0-9]{1,18}")
NUMBER = re.compile(r"\s*[+-]?[0-9]+")


def parse(name: str, version: str) -> ModelName:
    """The model that `name` and `version` stand for; an empty version means the highest one that is ready.

    Raises:
        InvalidField: the version is no decimal number of 1 or more.
    """
    if not version:
        return ModelName(name)
    if DIGITS.fullmatch(version) and int(version) > 0:
        return ModelName(name, version=int(version))
    shown = version[:64]
    if NUMBER.match(version):
        message = f"invalid model version specified '{shown}' , version should be an integral value > 0"
    else:
        message = (
            f"failed to get model version from specified version string '{shown}' (details: stol), "
            "version should be an integral value > 0"
        )
    raise InvalidField(message, field="model_version", value=shown, limit="1")


def unknown(wanted: ModelName) -> ModelNotFound:
    """Triton's words for a model or a version that nobody has."""
    if wanted.version is not None:
        what = f"Request for unknown model: '{wanted.name}' version {wanted.version} is not found"
    elif wanted.label:
        what = f"Request for unknown model: '{wanted.name}' label '{wanted.label}' is not found"
    else:
        what = f"Request for unknown model: '{wanted.name}' is not found"
    return ModelNotFound(what, model=wanted.name, version=str(wanted.version or ""))
