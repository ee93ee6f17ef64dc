"""TriviumCallError: what the server said reaches the caller."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from services.kit.errors import InvalidField, Overloaded, to_status
from trivium.client.errors import DETAILS_KEY, FieldViolation, TriviumCallError


class Failed(grpc.RpcError):
    """What grpc raises: an exception that is also the call."""

    def __init__(self, code: grpc.StatusCode, text: str, trailers: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        self._code, self._text, self._trailers = code, text, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> Any:
        return self._trailers


def status(*details: ErrorInfo | RetryInfo | BadRequest) -> status_pb2.Status:
    made = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="the queue is full")
    for detail in details:
        made.details.add().Pack(detail)
    return made


def test_every_detail_of_the_status_is_an_attribute() -> None:
    error = TriviumCallError(
        status(
            ErrorInfo(reason="QUEUE_FULL", domain="trivium", metadata={"executed": "no", "instance": "vision-1"}),
            RetryInfo(retry_delay=Duration(nanos=250_000_000)),
            BadRequest(field_violations=[BadRequest.FieldViolation(field="image", description="too large")]),
        )
    )
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.reason == "QUEUE_FULL"
    assert error.message == "the queue is full"
    assert error.metadata == {"executed": "no", "instance": "vision-1"}
    assert error.retry_after_s == 0.25
    assert error.violations == (FieldViolation("image", "too large"),)
    assert str(error) == "RESOURCE_EXHAUSTED (QUEUE_FULL): the queue is full (try again in 0.25 s)"


@pytest.mark.parametrize(
    "raised", [InvalidField("top_k is 0", field="top_k"), Overloaded("queue is full", retry_after_s=0.5)]
)
def test_what_a_service_raises_arrives_at_the_caller(raised: InvalidField | Overloaded) -> None:
    error = TriviumCallError(to_status(raised))
    assert (error.code.value[0], error.reason, error.message) == (raised.code, raised.reason, raised.message)
    assert error.retry_after_s == raised.retry_after_s
    assert [found.field for found in error.violations] == [value for key, value in raised.metadata.items()]


def test_the_details_are_read_from_the_trailing_metadata() -> None:
    rich = status(ErrorInfo(reason="QUEUE_FULL"))
    trailers = ((DETAILS_KEY, rich.SerializeToString()),)
    error = TriviumCallError.of(Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", trailers))
    assert error.reason == "QUEUE_FULL"
    assert not error.unreachable


@pytest.mark.parametrize("details", [b"\xff", status_pb2.Status(code=5).SerializeToString()])
def test_damaged_or_foreign_details_leave_the_plain_status(details: bytes) -> None:
    error = TriviumCallError.of(Failed(grpc.StatusCode.INTERNAL, "oops", ((DETAILS_KEY, details),)))
    assert (error.code, error.reason, error.message) == (grpc.StatusCode.INTERNAL, "", "oops")


def test_a_server_that_explains_itself_is_not_unreachable() -> None:
    assert TriviumCallError.of(Failed(grpc.StatusCode.UNAVAILABLE, "failed to connect")).unreachable
    explained = (
        (DETAILS_KEY, status_pb2.Status(code=14, details=status(ErrorInfo(reason="X")).details).SerializeToString()),
    )
    assert not TriviumCallError.of(Failed(grpc.StatusCode.UNAVAILABLE, "draining", explained)).unreachable
