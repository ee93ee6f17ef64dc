"""How the Open Inference Protocol names a model, and Triton's words where there is none."""

import difflib
import functools
from collections.abc import Set

from services.kit.errors import ModelNotFound
from services.kit.model_name import ModelName
from services.kit.open_inference import version as version_of

MOST_COMPARED, LONGEST_COMPARED = 64, 63  # names that one is compared with, and characters of it


def parse(name: str, version: str) -> ModelName:
    """The model that `name` and `version` stand for; an empty version means the highest one that is ready.

    Raises:
        InvalidField: the version is no decimal number of 1 or more.
    """
    return ModelName(name, version=version_of(version))


def unknown(wanted: ModelName, known: Set[str] = frozenset()) -> ModelNotFound:
    """Triton's words for a model or a version that nobody has; and which of the known models has a name like it."""
    if wanted.version is not None:
        what = f"Request for unknown model: '{wanted.name}' version {wanted.version} is not found"
    elif wanted.label:
        what = f"Request for unknown model: '{wanted.name}' label '{wanted.label}' is not found"
    else:
        what = f"Request for unknown model: '{wanted.name}' is not found"
    if len(known) <= MOST_COMPARED and len(wanted.name) <= LONGEST_COMPARED:
        near = _near(wanted.name, frozenset(known))
        if near not in ("", wanted.name):
            what += f"; did you mean '{near}'?"
    return ModelNotFound(what, model=wanted.name, version=str(wanted.version or ""))


@functools.lru_cache(maxsize=256)  # whoever asks once does so again, and it takes longer than all else of a refusal
def _near(name: str, known: frozenset[str]) -> str:
    """The known name that is most like it; "" if none is like it."""
    return next(iter(difflib.get_close_matches(name, known, n=1)), "")
