"""ModelInferRequest: the parts that the gateway reads."""

from collections.abc import Mapping

from google.protobuf.message import DecodeError

from inference import grpc_service_pb2 as oip
from services.kit.errors import MalformedRequest
from services.kit.sequences import STATE

# The types with which the parameters make sense; an instance refuses others.
TYPES = {
    "sequence_id": ("int64_param", "uint64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
}


def parsed(data: bytes) -> oip.ModelInferRequest:
    """The whole message.

    Raises:
        MalformedRequest: it is none.
    """
    try:
        return oip.ModelInferRequest.FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        name = oip.ModelInferRequest.DESCRIPTOR.full_name
        raise MalformedRequest(f"the {len(data)} bytes of the request are no {name}", type=name) from error


def in_sequence(parameters: Mapping[str, oip.InferParameter]) -> bool:
    """Whether the request names a sequence, in the right types, and its caller does not keep the state itself."""
    if "sequence_id" not in parameters or STATE in parameters:
        return False
    given = {name: parameters[name].WhichOneof("parameter_choice") for name in TYPES if name in parameters}
    if any(choice not in TYPES[name] for name, choice in given.items()):
        return False
    return bool(getattr(parameters["sequence_id"], given["sequence_id"] or ""))


def has_sequence(data: bytes) -> bool:
    """Whether the request goes on with a sequence that its instance keeps, so that it must not be computed twice."""
    try:
        return in_sequence(parsed(data).parameters)
    except MalformedRequest:
        return True
