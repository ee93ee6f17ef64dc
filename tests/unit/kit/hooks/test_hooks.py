import asyncio
import math

import pytest
import structlog
from google.rpc import code_pb2
from prometheus_client import CollectorRegistry

from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import DeadlineExpired, Draining, Overloaded, TriviumError
from services.kit.hooks import Admission, Deadlines, Errors, Identify, Observe
from services.kit.hooks.admission import MAX_PROBES

CLASSIFY = "/trivium.vision.v1.VisionService/Classify"
TRACK = "/trivium.sequence.v1.SequenceService/Track"


def call(method: str = CLASSIFY, deadline: Deadline | None = None) -> Call:
    return Call(method, deadline or Deadline())


def test_an_expired_call_is_refused_before_anything_is_spent_on_it() -> None:
    with pytest.raises(DeadlineExpired):
        Deadlines().start(call(deadline=Deadline(-math.inf)))
    Deadlines().start(call(deadline=Deadline.after(60)))


def test_the_limit_of_calls_in_flight_is_exact() -> None:
    admission, calls = Admission(2), [call() for _ in range(3)]
    for admitted in calls[:2]:
        admission.start(admitted)
    with pytest.raises(Overloaded) as caught:
        admission.start(calls[2])
    assert (caught.value.metadata["limit"], caught.value.metadata["value"]) == ("2", "2")
    admission.end(calls[0], None)
    admission.start(calls[2])


def test_a_closed_process_refuses_work_and_still_answers_probes() -> None:
    admission = Admission(1)
    admission.close()
    with pytest.raises(Draining):
        admission.start(call())
    admission.start(call("/grpc.health.v1.Health/Check"))
    assert admission.in_flight == 0


def test_probes_have_a_limit_of_their_own() -> None:
    admission, probe = Admission(1), "/grpc.health.v1.Health/Watch"
    for _ in range(MAX_PROBES):
        admission.start(call(probe))
    with pytest.raises(Overloaded):
        admission.start(call(probe))
    admission.start(call())
    admission.end(call(probe), None)
    admission.start(call(probe))


def test_live_streams_have_a_limit_of_their_own() -> None:
    admission, streams = Admission(1, 2, {TRACK}), [call(TRACK) for _ in range(3)]
    for admitted in streams[:2]:
        admission.start(admitted)
    with pytest.raises(Overloaded, match="2 live streams are in flight and the limit is 2") as caught:
        admission.start(streams[2])
    assert caught.value.metadata == {"limit": "2", "value": "2"}
    admission.start(call())
    with pytest.raises(Overloaded, match="1 calls are in flight and the limit is 1"):
        admission.start(call())
    assert (admission.in_flight, admission.streams) == (3, 2)
    admission.end(streams[0], None)
    admission.start(streams[2])
    admission.end(call(), None)
    assert (admission.in_flight, admission.streams) == (2, 2)


async def test_a_live_stream_counts_for_idle() -> None:
    admission, stream = Admission(1, 1, {TRACK}), call(TRACK)
    admission.start(stream)
    admission.close()
    with pytest.raises(Draining):
        admission.start(call(TRACK))
    waiting = asyncio.ensure_future(admission.idle())
    await asyncio.sleep(0)
    assert not waiting.done()
    admission.end(stream, None)
    await waiting
    assert (admission.in_flight, admission.streams) == (0, 0)


async def test_idle_comes_with_the_end_of_the_last_call() -> None:
    admission, last = Admission(1), call()
    admission.start(last)
    admission.end(last, None)
    await admission.idle()


def test_the_caller_sees_stage_and_instance_of_a_failure() -> None:
    failed = call()
    failed.stage = "decode"
    Errors("vision-1").end(failed, Overloaded("full"))
    assert failed.status is not None
    assert failed.status.code == code_pb2.RESOURCE_EXHAUSTED
    assert b"decode" in failed.status.SerializeToString()
    assert b"vision-1" in failed.status.SerializeToString()


def test_a_traceback_goes_to_the_log_and_never_to_the_caller() -> None:
    failed = call()
    with structlog.testing.capture_logs() as logs:
        Errors("vision-1").end(failed, ZeroDivisionError("secret"))
    assert failed.status is not None
    assert failed.status.code == code_pb2.INTERNAL
    assert b"secret" not in failed.status.SerializeToString()
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)


def test_every_answer_names_its_instance_once() -> None:
    own, forwarded = call(), call()
    forwarded.trailers.append(("trivium-instance", "vision-2"))
    for answered in (own, forwarded):
        Identify("gateway-1").end(answered, None)
    assert own.trailers == [("trivium-instance", "gateway-1")]
    assert forwarded.trailers == [("trivium-instance", "vision-2")]


def test_calls_are_counted_by_method_code_and_reason() -> None:
    registry = CollectorRegistry()
    observe, errors = Observe(registry, "none"), Errors("vision-1")
    for error in (None, Overloaded("full"), TriviumError("ours")):
        seen = call()
        observe.start(seen)
        with seen.timed("decode"):
            pass
        errors.end(seen, error)
        observe.end(seen, error)
    for code, reason in (("OK", ""), ("RESOURCE_EXHAUSTED", "QUEUE_FULL"), ("INTERNAL", "INTERNAL")):
        labels = {"method": CLASSIFY, "code": code, "reason": reason}
        assert registry.get_sample_value("trivium_calls_total", labels) == 1
    assert registry.get_sample_value("trivium_calls_in_flight") == 0
    assert registry.get_sample_value("trivium_stage_seconds_count", {"method": CLASSIFY, "stage": "decode"}) == 3


@pytest.mark.parametrize(
    ("calls", "method", "error", "lines"),
    [
        ("all", CLASSIFY, None, 1),
        ("all", "/grpc.health.v1.Health/Check", None, 0),
        ("failed", CLASSIFY, None, 0),
        ("failed", CLASSIFY, Overloaded("full"), 1),
        ("none", CLASSIFY, Overloaded("full"), 0),
    ],
)
def test_the_log_has_the_lines_that_were_asked_for(
    calls: str, method: str, error: TriviumError | None, lines: int
) -> None:
    with structlog.testing.capture_logs() as logs:
        observe, errors, seen = Observe(CollectorRegistry(), calls), Errors("vision-1"), call(method)  # type: ignore[arg-type]
        observe.start(seen)
        errors.end(seen, error)
        observe.end(seen, error)
    assert len(logs) == lines
