"""How the Open Inference Protocol names a model, and Triton's words where there is none."""

import difflib
from collections.abc import Iterable

from services.kit.errors import ModelNotFound
from services.kit.model_name import MAX_LENGTH, ModelName
from services.kit.open_inference import version as version_of


def parse(name: str, version: str) -> ModelName:
    """The model that `name` and `version` stand for; an empty version means the highest one that is ready.

    Raises:
        InvalidField: the version is no decimal number of 1 or more.
    """
    return ModelName(name, version=version_of(version))


def unknown(wanted: ModelName, known: Iterable[str] = ()) -> ModelNotFound:
    """Triton's words for a model or a version that nobody has; and which of the known models has a name like it."""
    if wanted.version is not None:
        what = f"Request for unknown model: '{wanted.name}' version {wanted.version} is not found"
    elif wanted.label:
        what = f"Request for unknown model: '{wanted.name}' label '{wanted.label}' is not found"
    else:
        what = f"Request for unknown model: '{wanted.name}' is not found"
    near = difflib.get_close_matches(wanted.name, known, n=1) if len(wanted.name) <= MAX_LENGTH else []
    if near and near[0] != wanted.name:
        what += f"; did you mean '{near[0]}'?"
    return ModelNotFound(what, model=wanted.name, version=str(wanted.version or ""))
