"""What a service and the gateway alike say in the Open Inference Protocol, in Triton's words where tools know them."""

import re
from collections.abc import Sequence

from services.kit.errors import InvalidField, UnknownMethod
from services.kit.model_name import version_number

EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
INTEGER = ("int64_param", "uint64_param")  # the types of a parameter that is a whole number
# Metadata of a ModelStreamInfer call whose first failure ends it with its status, in the place of an error message. An
# instance's status says more than its words: whether the request was executed, and when to come back.
ENDS_WITH_STATUS = ("trivium-stream-errors", "status")
NUMBER = re.compile(r"\s*[+-]?[0-9]+")


def version(text: str) -> int | None:
    """The version that `text` names; None for an empty text, which means the highest one that is ready.

    Raises:
        InvalidField: it is no decimal number of 1 or more.
    """
    if not text:
        return None
    if (number := version_number(text)) is not None:
        return number
    shown, should = text[:64], "version should be an integral value > 0"
    if NUMBER.match(text):
        message = f"invalid model version specified '{shown}' , {should}"
    else:
        message = f"failed to get model version from specified version string '{shown}' (details: stol), {should}"
    raise InvalidField(message, field="model_version", value=shown, limit="1")


def ends_with_status(metadata: Sequence[tuple[str, str | bytes]]) -> bool:
    """Whether the caller of a stream wants the status of a failure."""
    return ENDS_WITH_STATUS in metadata


def check_repository(name: str) -> None:
    """There is one repository, which has no name.

    Raises:
        UnknownMethod: the request names one.
    """
    if name:
        shown = name[:80]
        raise UnknownMethod("'repository_name' specification is not supported", repository_name=shown)
