"""What a caller sees of an attempt that failed: the instance's own status, or ours where the instance said nothing."""

from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from gateway.endpoint import Endpoint
from gateway.retries import LOST
from services.kit.errors import DOMAIN, DeadlineExpired, InputTooLarge, NoInstance, TriviumError, UnknownMethod
from services.kit.transport.upstream import CallFailed

# What a transport ends calls with by itself. Other codes without details are an instance's own words, of another make.
REASONS = {
    code_pb2.RESOURCE_EXHAUSTED: InputTooLarge.reason,  # a message, there or back, over the limit of the transport
    code_pb2.INTERNAL: TriviumError.reason,
    code_pb2.UNKNOWN: TriviumError.reason,
    code_pb2.DATA_LOSS: TriviumError.reason,
    code_pb2.UNIMPLEMENTED: UnknownMethod.reason,
}


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
    reason = REASONS.get(failure.status.code)
    return failure if reason is None else _detailed(failure, endpoint, reason)


def found(code: int, message: str) -> CallFailed:
    """What the gateway itself finds wrong with an instance's answers."""
    return CallFailed(status_pb2.Status(code=code, message=message), (), "unknown")


def _detailed(failure: CallFailed, endpoint: Endpoint, reason: str) -> CallFailed:
    """The same code and message, with the reason and the place."""
    info = ErrorInfo(reason=reason, domain=DOMAIN)
    info.metadata.update({"stage": "forward", "instance": endpoint.id, "executed": failure.executed})
    status = status_pb2.Status(code=failure.status.code, message=failure.status.message)
    status.details.add().Pack(info)
    return CallFailed(status, failure.trailers, failure.executed)
