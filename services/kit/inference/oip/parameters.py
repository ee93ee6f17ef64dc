"""Request parameters: those that mean something here or that Triton's tools always send; any other is refused."""

from collections.abc import Mapping
from types import MappingProxyType

from inference import grpc_service_pb2 as pb
from services.kit import sequences
from services.kit.errors import InvalidField, UnknownParameter
from services.kit.open_inference import INTEGER

FINAL_RESPONSE = "triton_enable_empty_final_response"

# Name -> the types that it may have. Models without state accept what speaks of sequences and do nothing with it, as
# Triton's.
KNOWN: dict[str, tuple[str, ...]] = {
    "priority": INTEGER,
    "timeout": INTEGER,
    **sequences.PARAMETERS,
    FINAL_RESPONSE: ("bool_param",),
}
MAX_CLASSES = 100


def timeout_s(
    parameters: Mapping[str, pb.InferParameter], more: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> float | None:
    """Seconds that the request may take by its `timeout` parameter, which is in microseconds; None where there is none.

    Args:
        more: what the model knows besides, and the types that it may have.

    Raises:
        UnknownParameter: a name that means nothing here.
        InvalidField: a value of another type than the parameter's.
    """
    for name, value in parameters.items():
        _check(name, value, more)
    microseconds = _integer(parameters["timeout"]) if "timeout" in parameters else 0
    if microseconds < 0:
        raise InvalidField(
            f"'timeout' must be 0 or more microseconds, got {microseconds}",
            field="parameters.timeout",
            limit="0",
            value=str(microseconds),
        )
    return microseconds / 1e6 if microseconds else None


def classes(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> int | None:
    """How many classes the requested output's `classification` parameter asks for; None where there is none.

    Raises:
        UnknownParameter, InvalidField: another parameter, another type, or a number outside [1, 100].
    """
    for name in output.parameters:
        if name != "classification":
            raise UnknownParameter(
                f"parameter '{name[:128]}' of output '{output.name[:128]}' is unknown; tensors come in the response, "
                "never in shared memory",
                field=f"outputs[{output.name}].parameters",
                value=name,
            )
    if "classification" not in output.parameters:
        return None
    value = output.parameters["classification"]
    _check_type("classification", value, INTEGER)
    count = _integer(value)
    if not 1 <= count <= MAX_CLASSES:
        raise InvalidField(
            f"'classification' must lie in [1, {MAX_CLASSES}], got {count}",
            field=f"outputs[{output.name}].parameters.classification",
            limit=str(MAX_CLASSES),
            value=str(count),
        )
    return count


def _check(name: str, value: pb.InferParameter, more: Mapping[str, tuple[str, ...]]) -> None:
    known = {**KNOWN, **more}
    if name in known:
        _check_type(name, value, known[name])
    elif name.startswith("triton_"):
        raise UnknownParameter(
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting "
            f"with 'triton_' are allowed: {FINAL_RESPONSE}",
            field="parameters",
            value=name,
        )
    else:
        public = [other for other in known if not other.startswith("trivium_")]  # the others are the gateway's
        raise UnknownParameter(
            f"parameter '{name[:128]}' is unknown; known: {', '.join(public)}", field="parameters", value=name
        )


def _check_type(name: str, value: pb.InferParameter, types: tuple[str, ...]) -> None:
    got = value.WhichOneof("parameter_choice") or "none"
    if got not in types:
        raise InvalidField(
            f"invalid value type for '{name}' parameter, expected {' or '.join(types)}.",
            field=f"parameters.{name}",
            limit=" or ".join(types),
            value=got,
        )


def _integer(value: pb.InferParameter) -> int:
    return int(getattr(value, value.WhichOneof("parameter_choice") or "int64_param"))
