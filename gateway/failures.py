"""What a caller sees of an attempt that failed: the instance's own status, or ours where the instance said nothing."""

from google.rpc import code_pb2

from gateway.endpoint import Endpoint
from gateway.retries import LOST
from services.kit.errors import DeadlineExpired, NoInstance
from services.kit.transport.upstream import CallFailed


def explained(failure: CallFailed, endpoint: Endpoint) -> Exception:
    """The error to raise for a failure that stands; a status with details passes on unchanged."""
    if failure.status.details:
        return failure
    if failure.status.code in LOST:  # a caller that did not cancel is not told CANCELLED
        return NoInstance(
            f"the connection to {endpoint.id} failed: {failure.status.message}",
            instance=endpoint.id,
            executed=failure.executed,
        )
    if failure.status.code == code_pb2.DEADLINE_EXCEEDED:
        return DeadlineExpired(f"the deadline passed while {endpoint.id} had the call", instance=endpoint.id)
    return failure
