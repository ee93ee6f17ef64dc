"""TriviumCallError: a failed call, with all that the server said about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

# A status with details travels under this key of the trailing metadata.
DETAILS_KEY = "grpc-status-details-bin"
CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of the request that the server refused, and why."""

    field: str
    description: str


class TriviumCallError(Exception):
    """A call that did not succeed.

    Attributes:
        code: the gRPC status code.
        reason: the server's word for it, such as "MODEL_NOT_FOUND"; empty where the server itself said nothing.
        message: what went wrong, in words.
        metadata: the values that the message mentions, and `stage`, `instance` and `executed` ("yes", "no", "unknown").
        retry_after_s: seconds after which the same call may succeed; None where the server gave no such advice.
        violations: the fields that the server refused.
    """

    def __init__(self, status: status_pb2.Status) -> None:
        self.code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        self.message = status.message
        info, retry, request = ErrorInfo(), RetryInfo(), BadRequest()
        self.retry_after_s: float | None = None
        for detail in status.details:
            if detail.Unpack(info) or detail.Unpack(request):
                continue
            if detail.Unpack(retry):
                self.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        self.reason = info.reason
        self.metadata: Mapping[str, str] = dict(info.metadata)
        self.violations = tuple(FieldViolation(found.field, found.description) for found in request.field_violations)
        super().__init__(self._text())

    @property
    def unreachable(self) -> bool:
        """Whether no server answered at all: nothing listens at the address, or the connection broke."""
        return not self.reason and self.code is grpc.StatusCode.UNAVAILABLE

    @classmethod
    def of(cls, error: grpc.RpcError) -> "TriviumCallError":
        """The failure that grpc reports as `error`, with the details of its trailing metadata."""
        call: Any = error  # what is raised is also a grpc.Call
        plain = status_pb2.Status(code=call.code().value[0], message=call.details() or "")
        for key, value in call.trailing_metadata() or ():
            if key == DETAILS_KEY:
                plain = _rich(value, plain)
        return cls(plain)

    def _text(self) -> str:
        text = f"{self.code.name} ({self.reason})" if self.reason else self.code.name
        text = f"{text}: {self.message}" if self.message else text
        return text if self.retry_after_s is None else f"{text} (try again in {self.retry_after_s:g} s)"


def _rich(data: bytes, plain: status_pb2.Status) -> status_pb2.Status:
    """The status in `data`; `plain` where it is damaged or speaks of another failure."""
    try:
        rich = status_pb2.Status.FromString(data)
    except DecodeError:
        return plain
    return rich if rich.code == plain.code else plain
