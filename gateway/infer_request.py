"""ModelInferRequest: the parts that the gateway reads."""

from google.protobuf.message import DecodeError

from inference import grpc_service_pb2 as oip
from services.kit.errors import MalformedRequest
from services.kit.sequences import in_sequence


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


def has_sequence(data: bytes) -> bool:
    """Whether the request goes on with a sequence that its instance keeps, so that it must not be computed twice."""
    try:
        return in_sequence(parsed(data).parameters)
    except MalformedRequest:
        return True
