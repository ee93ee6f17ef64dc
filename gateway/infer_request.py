"""ModelInferRequest: the parts that the gateway reads."""

from inference import grpc_service_pb2 as oip
from services.kit.errors import MalformedRequest
from services.kit.sequences import in_sequence
from services.kit.wire import parsed


def has_sequence(data: bytes) -> bool:
    """Whether the request goes on with a sequence that its instance keeps, so that it must not be computed twice."""
    try:
        return in_sequence(parsed(oip.ModelInferRequest, data).parameters)
    except MalformedRequest:
        return True
