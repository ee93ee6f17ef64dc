"""Every failure that a caller can act on, and its one way to a google.rpc.Status and back.

    TriviumError                    INTERNAL             INTERNAL
    ├── MalformedRequest            INVALID_ARGUMENT     MALFORMED_REQUEST
    ├── InvalidField                INVALID_ARGUMENT     INVALID_FIELD         + BadRequest
    │   ├── ImageUnreadable         INVALID_ARGUMENT     IMAGE_UNREADABLE      + BadRequest
    │   ├── InputTooLarge           INVALID_ARGUMENT     INPUT_TOO_LARGE       + BadRequest
    │   └── UnknownParameter        INVALID_ARGUMENT     UNKNOWN_PARAMETER     + BadRequest
    ├── ModelNotFound               NOT_FOUND            MODEL_NOT_FOUND
    ├── NameNotFound                NOT_FOUND            NAME_NOT_FOUND
    ├── UnknownMethod               UNIMPLEMENTED        UNKNOWN_METHOD
    ├── UnsupportedByModel          UNIMPLEMENTED        UNSUPPORTED_BY_MODEL
    ├── StateMismatch               FAILED_PRECONDITION  STATE_MISMATCH
    ├── SequenceNotStarted          FAILED_PRECONDITION  SEQUENCE_NOT_STARTED
    ├── LoadIncomplete              FAILED_PRECONDITION  LOAD_INCOMPLETE
    ├── Overloaded                  RESOURCE_EXHAUSTED   QUEUE_FULL            + RetryInfo
    ├── DeadlineUnreachable         RESOURCE_EXHAUSTED   DEADLINE_UNREACHABLE  + RetryInfo
    ├── QuotaExceeded               RESOURCE_EXHAUSTED   QUOTA                 + RetryInfo
    ├── DeadlineExpired             DEADLINE_EXCEEDED    DEADLINE_EXPIRED
    ├── NotReady                    UNAVAILABLE          NOT_READY             + RetryInfo
    ├── Draining                    UNAVAILABLE          DRAINING              + RetryInfo
    ├── NoInstance                  UNAVAILABLE          NO_INSTANCE           + RetryInfo
    │   └── Unloaded                UNAVAILABLE          MODEL_UNLOADED
    └── CallerLeft                  CANCELLED            CALLER_LEFT

Beside the tree stand UpstreamError, an instance's own answer that the gateway passes on unchanged,
and StartupError, which no caller ever sees: it ends a process before it is ready.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import structlog
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

DOMAIN = "trivium"
MAX_MESSAGE = 1024  # characters of a status message
MAX_VALUE = 256  # characters of one ErrorInfo metadata value
T = TypeVar("T")


class TriviumError(Exception):
    """A failure the caller can act on; each subclass fixes its gRPC code and its reason.

    Args:
        message: what went wrong, with the field, the limit and the value where there are any.
        retry_after_s: seconds after which the same call may succeed; becomes RetryInfo.
        metadata: each value that the message mentions, by name; becomes ErrorInfo.metadata.
    """

    code: ClassVar[int] = code_pb2.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    # Whether the work was done before the failure: "yes", "no" or "unknown". "no" makes a retry safe.
    executed: ClassVar[str] = "unknown"
    default_retry_after_s: ClassVar[float | None] = None

    def __init__(self, message: str, *, retry_after_s: float | None = None, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s
        self.metadata = metadata


class Refusal(TriviumError):
    """A failure found before any work was done. Abstract: raise a subclass."""

    executed = "no"


class MalformedRequest(Refusal):
    """The bytes are no message of the method's request type."""

    code, reason = code_pb2.INVALID_ARGUMENT, "MALFORMED_REQUEST"


class InvalidField(Refusal):
    """A field, tensor, shape, dtype, byte count or id that the method cannot accept."""

    code, reason = code_pb2.INVALID_ARGUMENT, "INVALID_FIELD"

    def __init__(self, message: str, *, field: str, retry_after_s: float | None = None, **metadata: str) -> None:
        super().__init__(message, retry_after_s=retry_after_s, field=field, **metadata)


class ImageUnreadable(InvalidField):
    """The bytes are no image, or a damaged one."""

    reason = "IMAGE_UNREADABLE"


class InputTooLarge(InvalidField):
    """More bytes, pixels, steps or tokens than the limit."""

    reason = "INPUT_TOO_LARGE"


class UnknownParameter(InvalidField):
    """A request parameter that means nothing here."""

    reason = "UNKNOWN_PARAMETER"


class ModelNotFound(Refusal):
    """No bundle of that name, version or label has ever been seen."""

    code, reason = code_pb2.NOT_FOUND, "MODEL_NOT_FOUND"


class NameNotFound(Refusal):
    """No service or symbol of that name is known here (health, reflection)."""

    code, reason = code_pb2.NOT_FOUND, "NAME_NOT_FOUND"


class UnknownMethod(Refusal):
    """Nothing here serves that method."""

    code, reason = code_pb2.UNIMPLEMENTED, "UNKNOWN_METHOD"


class UnsupportedByModel(Refusal):
    """The method exists, but the bundle cannot answer it."""

    code, reason = code_pb2.UNIMPLEMENTED, "UNSUPPORTED_BY_MODEL"


class StateMismatch(Refusal):
    """Stream state that belongs to another bundle, or is damaged."""

    code, reason = code_pb2.FAILED_PRECONDITION, "STATE_MISMATCH"


class SequenceNotStarted(Refusal):
    """A sequence id that was never started here."""

    code, reason = code_pb2.FAILED_PRECONDITION, "SEQUENCE_NOT_STARTED"


class LoadIncomplete(TriviumError):
    """Loading or unloading a model succeeded on some instances only."""

    code, reason = code_pb2.FAILED_PRECONDITION, "LOAD_INCOMPLETE"


class Overloaded(Refusal):
    """A bounded queue or a limit of calls in flight is full."""

    code, reason = code_pb2.RESOURCE_EXHAUSTED, "QUEUE_FULL"
    default_retry_after_s = 0.1


class DeadlineUnreachable(Refusal):
    """The estimated wait is longer than the time the caller has left."""

    code, reason = code_pb2.RESOURCE_EXHAUSTED, "DEADLINE_UNREACHABLE"
    default_retry_after_s = 0.1


class QuotaExceeded(Refusal):
    """The caller has used up what it was granted."""

    code, reason = code_pb2.RESOURCE_EXHAUSTED, "QUOTA"
    default_retry_after_s = 1.0


class DeadlineExpired(TriviumError):
    """The deadline passed while the call was queued or running."""

    code, reason = code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED"


class NotReady(Refusal):
    """The process is still starting."""

    code, reason = code_pb2.UNAVAILABLE, "NOT_READY"
    default_retry_after_s = 1.0


class Draining(Refusal):
    """The process is leaving and accepts nothing new."""

    code, reason = code_pb2.UNAVAILABLE, "DRAINING"
    default_retry_after_s = 0.1


class NoInstance(Refusal):
    """The model was seen before, and no instance serves it now."""

    code, reason = code_pb2.UNAVAILABLE, "NO_INSTANCE"
    default_retry_after_s: ClassVar[float | None] = 1.0


class Unloaded(NoInstance):
    """All instances of its service are there, and have unloaded it: it comes back when somebody loads it."""

    reason = "MODEL_UNLOADED"
    default_retry_after_s = None


class CallerLeft(TriviumError):
    """The caller cancelled; its work was dropped."""

    code, reason = code_pb2.CANCELLED, "CALLER_LEFT"


class UpstreamError(Exception):
    """An instance's own failure, passed on by the gateway unchanged."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(f"{code_pb2.Code.Name(status.code)}: {status.message}")
        self.status = status


class StartupError(Exception):
    """A process cannot start. Says what is wrong, and in `hint` what to do about it."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class SettingsError(StartupError):
    """A setting is wrong, so that another start would fail in the same way."""


def subclasses(base: type[TriviumError] = TriviumError) -> Iterator[type[TriviumError]]:
    """Every error class that is raised: `base` itself and all below it, without the abstract Refusal."""
    if base is not Refusal:
        yield base
    for child in base.__subclasses__():
        yield from subclasses(child)


def to_status(error: BaseException, **where: str) -> status_pb2.Status:
    """The status a caller sees: code, message, ErrorInfo and, where they apply, BadRequest and RetryInfo.

    Args:
        error: what a handler raised. Anything but a TriviumError or UpstreamError becomes INTERNAL without its text.
        where: the ErrorInfo metadata that the place adds: `stage`, `instance`.
    """
    if isinstance(error, UpstreamError):
        return error.status
    if not isinstance(error, TriviumError):
        error = TriviumError("internal error; the instance's log has the details")
    status = status_pb2.Status(code=error.code, message=_short(error.message, MAX_MESSAGE))
    metadata = {"executed": error.executed, **where, **error.metadata}
    info = ErrorInfo(reason=error.reason, domain=DOMAIN)
    info.metadata.update({key: _short(value, MAX_VALUE) for key, value in metadata.items()})
    status.details.add().Pack(info)
    if isinstance(error, InvalidField):
        violation = BadRequest.FieldViolation(field=error.metadata["field"], description=status.message)
        status.details.add().Pack(BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return status


def _short(text: str, limit: int) -> str:
    """A status travels in HTTP/2 headers, which transports bound: long values are cut, never the call."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def from_status(status: status_pb2.Status) -> TriviumError | UpstreamError:
    """The error whose `to_status` gives `status`; an UpstreamError where it is none of ours."""
    info = error_info(status)
    by_reason = {found.reason: found for found in subclasses()}
    if info is None or info.domain != DOMAIN or info.reason not in by_reason:
        return UpstreamError(status)
    metadata: dict[str, Any] = {key: value for key, value in info.metadata.items() if key != "executed"}
    if issubclass(by_reason[info.reason], InvalidField):
        metadata.setdefault("field", "")  # of what no field is to blame for, such as an answer over the limit
    return by_reason[info.reason](status.message, retry_after_s=retry_after_s(status), **metadata)


def error_info(status: status_pb2.Status) -> ErrorInfo | None:
    """The ErrorInfo among the status's details; None where there is none."""
    info = ErrorInfo()
    return next((info for detail in status.details if detail.Unpack(info)), None)


def retry_after_s(status: status_pb2.Status) -> float | None:
    """Seconds of the RetryInfo among the status's details; None where there is none."""
    info = RetryInfo()
    return next((info.retry_delay.ToNanoseconds() / 1e9 for detail in status.details if detail.Unpack(info)), None)


async def outcome(awaitable: Awaitable[T], where: Callable[[], Mapping[str, str]] = dict) -> T | status_pb2.Status:
    """The result, or the status of the failure: for streams in which each item may fail on its own.

    Args:
        where: asked after a failure for the ErrorInfo metadata that the place adds: `stage`, `instance`.
    """
    try:
        return await awaitable
    except Exception as error:
        place = where()
        if not isinstance(error, TriviumError | UpstreamError):
            structlog.get_logger().error("internal_error", exc_info=error, **place)
        return to_status(error, **place)
