"""What a failure means for a stream that can go on elsewhere."""

import pytest
from google.rpc import code_pb2

from gateway.resume.verdict import Verdict, verdict
from services.kit.errors import (
    DeadlineExpired,
    DeadlineUnreachable,
    Draining,
    InvalidField,
    ModelNotFound,
    NotReady,
    Overloaded,
    StateMismatch,
    TriviumError,
)
from services.kit.transport.upstream import CallFailed
from tests.unit.gateway.fakes import broken, refused


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (broken(), "broken"),
        (broken(code_pb2.CANCELLED), "broken"),
        (broken(sent=False), "away"),
        (refused(Draining("leaving")), "away"),
        (refused(NotReady("starting")), "away"),
        (refused(Overloaded("full")), "refused"),
        (refused(DeadlineUnreachable("the line is too long")), "late"),
        (refused(Overloaded("full", executed="unknown")), "final"),
        (broken(code_pb2.RESOURCE_EXHAUSTED), "final"),
        (refused(ModelNotFound("unloaded")), "refused"),
        (broken(code_pb2.NOT_FOUND), "final"),
        (refused(InvalidField("wrong", field="values")), "final"),
        (refused(StateMismatch("foreign")), "final"),
        (refused(DeadlineExpired("late")), "final"),
        (refused(TriviumError("a bug")), "fault"),
        (broken(code_pb2.UNKNOWN), "fault"),
        (broken(code_pb2.DATA_LOSS), "fault"),
    ],
    ids=str,
)
def test_only_what_another_instance_may_do_better_goes_on(failure: CallFailed, expected: Verdict) -> None:
    assert verdict(failure) == expected
