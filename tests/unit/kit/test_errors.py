from collections import Counter

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from services.kit import errors
from services.kit.errors import InvalidField, Overloaded, TriviumError, UpstreamError, from_status, to_status

CLASSES = list(errors.subclasses())


def detail(status: status_pb2.Status, kind: type[Message]) -> Message | None:
    found = kind()
    return next((found for any_message in status.details if any_message.Unpack(found)), None)


def example(kind: type[TriviumError]) -> TriviumError:
    if issubclass(kind, InvalidField):
        return kind("top_k is 0, and must lie in [1, 100]", field="top_k", limit="[1, 100]", value="0")
    return kind("what went wrong", model="digits-cnn")


def test_reasons_are_unique() -> None:
    assert [reason for reason, count in Counter(kind.reason for kind in CLASSES).items() if count > 1] == []


def test_the_docstring_draws_every_class() -> None:
    drawn = errors.__doc__ or ""
    for kind in CLASSES:
        line = next(line for line in drawn.splitlines() if f"{kind.__name__} " in line)
        assert kind.reason in line
        assert code_pb2.Code.Name(kind.code) in line
        assert ("RetryInfo" in line) == (kind.default_retry_after_s is not None)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_status_gives_the_same_error_back(kind: type[TriviumError]) -> None:
    error = example(kind)
    again = from_status(to_status(error))
    assert type(again) is kind
    assert isinstance(again, TriviumError)
    assert (again.message, again.retry_after_s, again.metadata) == (error.message, error.retry_after_s, error.metadata)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_status_says_whether_the_work_was_done(kind: type[TriviumError]) -> None:
    info = detail(to_status(example(kind), stage="decode", instance="vision-1"), ErrorInfo)
    assert isinstance(info, ErrorInfo)
    assert info.domain == "trivium"
    assert info.metadata["executed"] in ("yes", "no", "unknown")
    assert (info.metadata["stage"], info.metadata["instance"]) == ("decode", "vision-1")


def test_a_status_without_the_field_is_read_too() -> None:
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="too large")
    status.details.add().Pack(ErrorInfo(reason="INPUT_TOO_LARGE", domain="trivium"))
    assert isinstance(from_status(status), errors.InputTooLarge)


def test_a_wrong_field_is_named_in_bad_request() -> None:
    violation = detail(to_status(example(InvalidField)), BadRequest)
    assert isinstance(violation, BadRequest)
    assert [found.field for found in violation.field_violations] == ["top_k"]


def test_an_overload_says_when_to_come_back() -> None:
    delay = detail(to_status(Overloaded("full", retry_after_s=0.25)), RetryInfo)
    assert isinstance(delay, RetryInfo)
    assert delay.retry_delay.ToMilliseconds() == 250


def test_a_foreign_exception_becomes_internal_without_its_text() -> None:
    status = to_status(ValueError("secret"))
    assert status.code == code_pb2.INTERNAL
    assert "secret" not in status.message


def test_an_instances_own_status_passes_unchanged() -> None:
    status = status_pb2.Status(code=code_pb2.ABORTED, message="theirs")
    assert to_status(UpstreamError(status), stage="forward") is status
    assert isinstance(from_status(status), UpstreamError)


def test_a_status_always_fits_into_headers() -> None:
    status = to_status(InvalidField("x" * 100_000, field="image", value="y" * 100_000))
    assert len(status.SerializeToString()) < 4096


async def test_an_outcome_is_a_result_or_a_status() -> None:
    async def good() -> int:
        return 3

    async def bad() -> int:
        raise Overloaded("full")

    assert await errors.outcome(good()) == 3
    failed = await errors.outcome(bad())
    assert isinstance(failed, status_pb2.Status)
    assert failed.code == code_pb2.RESOURCE_EXHAUSTED
