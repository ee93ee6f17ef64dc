"""A caller learns the reason and the place of a failure, whoever noticed it."""

import pytest
from google.rpc import code_pb2, status_pb2

from gateway.failures import explained
from services.kit.errors import DeadlineExpired, InvalidField, NoInstance, UpstreamError, error_info
from services.kit.transport.upstream import CallFailed
from tests.unit.gateway.fakes import broken, endpoint, refused

ONE = endpoint("one")


def bare(code: int, message: str = "as it was") -> CallFailed:
    """What the transport says by itself."""
    return CallFailed(status_pb2.Status(code=code, message=message), (("a", "b"),), "unknown")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (code_pb2.RESOURCE_EXHAUSTED, "INPUT_TOO_LARGE"),
        (code_pb2.INTERNAL, "INTERNAL"),
        (code_pb2.UNKNOWN, "INTERNAL"),
        (code_pb2.DATA_LOSS, "INTERNAL"),
        (code_pb2.UNIMPLEMENTED, "UNKNOWN_METHOD"),
    ],
)
def test_what_the_transport_says_by_itself_gets_a_reason_and_keeps_its_words(code: int, reason: str) -> None:
    error = explained(bare(code), ONE)
    assert isinstance(error, UpstreamError)
    assert (error.status.code, error.status.message) == (code, "as it was")
    info = error_info(error.status)
    assert info is not None
    assert (info.domain, info.reason) == ("trivium", reason)
    assert dict(info.metadata) == {"stage": "forward", "instance": "one", "executed": "unknown"}


def test_what_an_instance_says_passes_on_unchanged() -> None:
    for failure in (refused(InvalidField("wrong", field="x")), bare(code_pb2.PERMISSION_DENIED)):
        assert explained(failure, ONE) is failure


def test_a_lost_connection_and_a_late_answer_have_errors_of_their_own() -> None:
    lost = explained(broken(sent=False), ONE)
    assert isinstance(lost, NoInstance)
    assert lost.metadata == {"instance": "one", "executed": "no"}
    assert isinstance(explained(broken(code_pb2.CANCELLED), ONE), NoInstance)
    assert isinstance(explained(bare(code_pb2.DEADLINE_EXCEEDED), ONE), DeadlineExpired)
