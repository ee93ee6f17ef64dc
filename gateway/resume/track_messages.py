"""What the messages of a Track stream say, as far as the gateway reads them."""

from typing import Literal

from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from gateway.endpoint import Endpoint
from gateway.failures import found
from trivium.sequence.v1 import sequence_pb2 as pb


def unnamed(data: bytes) -> bytes:
    """The message without the model, which the first message of the attempt names otherwise."""
    return without(pb.TrackRequest.FromString(data), "model").SerializeToString()


def without(request: pb.TrackRequest, field: Literal["model", "resume_state", "values"]) -> pb.TrackRequest:
    """A copy without the field; `request` is of no use afterwards. A message keeps the memory of fields cleared."""
    request.ClearField(field)
    copy = pb.TrackRequest()
    copy.CopyFrom(request)
    return copy


def steps(response: pb.TrackResponse, endpoint: Endpoint) -> tuple[int, int]:
    """The first and the last step that it answers.

    Raises:
        CallFailed: it answers none, or some that do not follow one another.
    """
    numbers = [answered.step for answered in response.steps]
    if not (numbers and numbers[0] and numbers == list(range(numbers[0], numbers[0] + len(numbers)))):
        raise found(code_pb2.INTERNAL, f"{endpoint.id} answered the steps {numbers[:64]}, which are none in a row")
    return numbers[0], numbers[-1]


def answer(data: bytes, endpoint: Endpoint) -> pb.TrackResponse:
    """The instance's message.

    Raises:
        CallFailed: it is none.
    """
    try:
        return pb.TrackResponse.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        raise found(
            code_pb2.INTERNAL, f"an answer of {endpoint.id} is no {pb.TrackResponse.DESCRIPTOR.full_name}"
        ) from None
