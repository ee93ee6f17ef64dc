"""A call goes to one instance, and to another one if and only if that is safe."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from google.rpc import code_pb2

from gateway.addressing import OIP
from gateway.endpoint import Endpoint
from gateway.settings import RetrySettings
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import (
    DeadlineExpired,
    Draining,
    InvalidField,
    NoInstance,
    NotReady,
    Overloaded,
    TriviumError,
    UnknownMethod,
    UpstreamError,
)
from tests.unit.gateway.fakes import CLASSIFY, STREAM, VISION, Gateway, broken, endpoint, fake, model, refused
from trivium.vision.v1 import vision_pb2

REQUEST = vision_pb2.ClassifyRequest(model="digits", image=b"pixels").SerializeToString()


class Trial:
    """A gateway, and calls through it as a transport makes them."""

    def __init__(self, *endpoints: Endpoint, **retry: Any) -> None:
        self.gateway = Gateway(list(endpoints), RetrySettings(**retry))

    async def unary(self, path: str = CLASSIFY, request: bytes = REQUEST, **call: Any) -> tuple[bytes, Call]:
        """The answer, and the call with its trailers."""
        made = Call(path, call.pop("deadline", Deadline()), **call)
        return await self.gateway.forwarder.method(path).handler(request, made), made

    async def stream(self, requests: AsyncIterator[bytes], path: str = STREAM) -> tuple[list[bytes], Call]:
        """All answers."""
        made = Call(path, Deadline())
        return [answer async for answer in self.gateway.forwarder.method(path).handler(requests, made)], made

    def attempts(self, code: str) -> float:
        """How many ended so."""
        labels = {"service": VISION, "code": code}
        return self.gateway.registry.get_sample_value("trivium_gateway_attempts_total", labels) or 0.0


def failing(name: str, error: Exception, times: int = 10**9) -> Endpoint:
    """An endpoint whose first calls fail."""
    left = [times]

    def answer(path: str, request: bytes) -> bytes:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return b"answer of " + name.encode()

    made = endpoint(name, answer=answer)
    made.in_flight = -10  # picked first
    return made


async def broken_stream(*errors: Exception) -> AsyncGenerator[bytes, None]:
    """Breaks before its first answer."""
    for error in errors:
        raise error
    yield b""


async def images(count: int, *, name: str = "digits") -> AsyncIterator[bytes]:
    """A caller's stream; the first message names the model."""
    for number in range(count):
        request = vision_pb2.ClassifyStreamRequest(model=name if number == 0 else "", id=str(number))
        yield request.SerializeToString()


async def test_the_same_bytes_go_on_and_the_answer_comes_back() -> None:
    one = endpoint("one")
    trial = Trial(one)
    answer, call = await trial.unary()
    assert answer == b"answer of one"
    assert [(seen.path, seen.request) for seen in fake(one).seen] == [(CLASSIFY, REQUEST)]
    assert call.trailers == [("trivium-instance", "one"), ("trivium-attempts", "1")]
    assert call.initial == [("first", "one")]
    assert one.in_flight == 0
    assert trial.attempts("OK") == 1


async def test_the_callers_metadata_and_deadline_go_on_but_what_belongs_to_the_connection_does_not() -> None:
    one, deadline = endpoint(), Deadline.after(3)
    ours = (("authorization", "x"), ("traceparent", "y"), ("blob-bin", b"\xff"))
    theirs = (("user-agent", "a"), ("te", "trailers"), ("grpc-accept-encoding", "gzip"), ("content-type", "b"))
    await Trial(one).unary(metadata=(*theirs, *ours), deadline=deadline)
    assert fake(one).seen[0].metadata == ours
    assert fake(one).seen[0].deadline is deadline


@pytest.mark.parametrize(
    "error",
    [
        refused(Draining("leaving")),
        broken(sent=False),
        broken(),
        broken(code_pb2.CANCELLED),
        refused(Overloaded("full")),
    ],
    ids=["draining", "not sent", "killed", "stopped", "full"],
)
async def test_a_call_that_may_be_repeated_is_answered_by_another_instance(error: Exception) -> None:
    trial = Trial(failing("bad", error), endpoint("good"))
    answer, call = await trial.unary()
    assert answer == b"answer of good"
    assert call.trailers == [("trivium-instance", "good"), ("trivium-attempts", "2")]
    await trial.gateway.close()


async def test_what_was_executed_is_not_repeated() -> None:
    bad, good = failing("bad", refused(NotReady("late", executed="yes"))), endpoint("good")
    trial = Trial(bad, good)
    with pytest.raises(UpstreamError) as raised:
        await trial.unary()
    assert raised.value.status.message == "late"
    assert fake(good).seen == []
    await trial.gateway.close()


async def test_a_refusal_that_every_instance_would_give_passes_on_unchanged() -> None:
    error = refused(InvalidField("top_k is 101, at most 100", field="top_k"))
    bad, good = failing("bad", error), endpoint("good")
    trial = Trial(bad, good)
    call = Call(CLASSIFY, Deadline())
    with pytest.raises(UpstreamError) as raised:
        await trial.gateway.forwarder.method(CLASSIFY).handler(REQUEST, call)
    assert raised.value.status == error.status
    assert ("trivium-instance", "v") in call.trailers
    assert fake(good).seen == []
    assert (bad.in_flight, good.in_flight) == (-10, 0)


async def test_no_instance_is_tried_twice() -> None:
    one, two = failing("one", broken()), failing("two", broken())
    trial = Trial(one, two)
    with pytest.raises(NoInstance, match="the connection to") as raised:
        await trial.unary()
    assert raised.value.metadata["executed"] == "unknown"
    assert [len(fake(found).seen) for found in (one, two)] == [1, 1]
    await trial.gateway.close()


async def test_a_full_suite_is_not_asked_again_and_again() -> None:
    full = [failing(name, refused(Overloaded("full"))) for name in "abcd"]
    trial = Trial(*full)
    with pytest.raises(UpstreamError) as raised:
        await trial.unary()
    assert raised.value.status.code == code_pb2.RESOURCE_EXHAUSTED
    assert trial.attempts("RESOURCE_EXHAUSTED") == 2


async def test_attempts_end_with_the_deadline() -> None:
    good = endpoint("good")
    trial = Trial(failing("bad", broken()), good)
    with pytest.raises(NoInstance):
        await trial.unary(deadline=Deadline(0.0))
    assert fake(good).seen == []
    await trial.gateway.close()


async def test_a_deadline_that_passes_at_the_instance_is_said_in_our_words() -> None:
    with pytest.raises(DeadlineExpired):
        await Trial(failing("slow", broken(code_pb2.DEADLINE_EXCEEDED))).unary()


async def test_a_caller_that_leaves_ends_the_call_at_the_instance() -> None:
    one = endpoint()
    fake(one).hanging = asyncio.Event()
    call = asyncio.create_task(Trial(one).unary())
    await fake(one).reached.wait()
    assert one.in_flight == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (fake(one).cancelled, one.in_flight) == (1, 0)


async def test_the_busier_instance_waits() -> None:
    busy, idle = endpoint("busy"), endpoint("idle")
    busy.in_flight = 3
    trial = Trial(busy, idle)
    assert {(await trial.unary())[0] for _ in range(20)} == {b"answer of idle"}


@pytest.mark.parametrize(("sequence", "answered"), [("", True), ("7", False)], ids=["no sequence", "a sequence"])
async def test_a_step_of_a_sequence_is_not_computed_twice(sequence: str, answered: bool) -> None:
    request = oip.ModelInferRequest(model_name="digits")
    request.parameters["sequence_id"].string_param = sequence
    trial = Trial(failing("bad", broken()), endpoint("good"))
    asked = trial.unary(f"{OIP}ModelInfer", request.SerializeToString())
    if answered:
        assert (await asked)[0] == b"answer of good"
    else:
        with pytest.raises(NoInstance):
            await asked
    await trial.gateway.close()


async def test_a_method_that_nobody_described_is_repeated_only_if_nothing_was_done() -> None:
    path = "/trivium.vision.v1.VisionService/FromTheFuture"
    for error, answered in ((broken(sent=False), True), (broken(), False)):
        trial = Trial(failing("bad", error), endpoint("good"))
        asked = trial.stream(images(1), path)
        if answered:
            assert (await asked)[0] == [b"answer of good"]
        else:
            with pytest.raises(NoInstance):
                await asked
        await trial.gateway.close()


async def test_a_service_that_nobody_has_is_refused_with_what_there_is() -> None:
    trial = Trial(endpoint())
    method = trial.gateway.forwarder.method("/foo.v1.FooService/Bar")
    assert method.path == "unknown"
    with pytest.raises(UnknownMethod, match="VisionService"):
        method.handler(images(1), Call("unknown", Deadline()))


async def test_why_a_method_of_triton_is_not_offered_is_for_an_instance_to_say() -> None:
    path = f"{OIP}SystemSharedMemoryStatus"
    trial = Trial(failing("one", refused(UnknownMethod("shared memory is not offered"))))
    with pytest.raises(UpstreamError, match="shared memory is not offered"):
        await trial.stream(images(1), path)
    with pytest.raises(UnknownMethod, match="nothing here serves"):
        Gateway([endpoint(state="critical")]).forwarder.method(path).handler(images(1), Call(path, Deadline()))


async def test_a_known_service_without_instances_is_not_unknown() -> None:
    trial = Trial(endpoint("other", service="trivium-other-v1"))
    with pytest.raises(NoInstance):
        await trial.unary(request=b"")


async def test_a_stream_goes_to_one_instance_from_its_first_message_on() -> None:
    one, other = endpoint("one", model("shapes")), endpoint("other")
    answers, call = await Trial(one, other).stream(images(3, name="shapes"))
    assert answers == [b"answer of one"] * 3
    assert call.trailers == [("trivium-instance", "one"), ("trivium-attempts", "1")]
    assert other.in_flight == one.in_flight == 0


async def test_a_stream_that_was_refused_before_its_second_message_begins_elsewhere() -> None:
    trial = Trial(failing("bad", refused(Draining("leaving"))), endpoint("good"))
    answers, call = await trial.stream(images(3))
    assert answers == [b"answer of good"] * 3
    assert ("trivium-attempts", "2") in call.trailers
    await trial.gateway.close()


async def test_a_stream_whose_second_message_has_gone_out_is_not_begun_again() -> None:
    bad, good = failing("bad", broken()), endpoint("good")

    async def refuse_late(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        for _ in range(2):
            await anext(requests)
        async for nothing in broken_stream(refused(Draining("leaving"))):
            yield nothing

    fake(bad).follow = refuse_late
    trial = Trial(bad, good)
    with pytest.raises(UpstreamError, match="leaving"):
        await trial.stream(images(3))
    assert fake(good).seen == []
    await trial.gateway.close()


async def test_a_message_that_the_broken_attempt_waited_for_goes_to_the_next_one() -> None:
    gate, bad, good = asyncio.Event(), failing("bad", broken()), endpoint("good")
    orphans: list[asyncio.Task[list[bytes]]] = []

    async def take_all(requests: AsyncIterator[bytes]) -> list[bytes]:
        return [request async for request in requests]

    async def break_while_reading(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        await anext(requests)
        orphans.append(asyncio.create_task(take_all(requests)))  # as grpc.aio does: its reader outlives the call
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(gate.set)
        async for nothing in broken_stream(broken()):
            yield nothing

    async def slow() -> AsyncIterator[bytes]:
        async for request in images(3):
            yield request
            await gate.wait()

    fake(bad).follow = break_while_reading
    trial = Trial(bad, good)
    answers, _ = await trial.stream(slow())
    assert answers == [b"answer of good"] * 3
    assert [vision_pb2.ClassifyStreamRequest.FromString(seen.request).id for seen in fake(good).seen] == ["0", "1", "2"]
    assert await orphans[0] == []
    await trial.gateway.close()


async def test_a_stream_that_breaks_after_its_first_answer_ends_with_the_failure() -> None:
    bad, good = failing("bad", broken()), endpoint("good")

    async def one_answer(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        yield await anext(requests)
        raise broken()

    fake(bad).follow = one_answer
    trial = Trial(bad, good)
    answers = trial.gateway.forwarder.method(STREAM).handler(images(3), Call(STREAM, Deadline()))
    assert await anext(answers)
    with pytest.raises(NoInstance):
        await anext(answers)
    assert fake(good).seen == []
    await trial.gateway.close()


async def test_what_goes_wrong_with_the_callers_messages_is_what_the_caller_hears() -> None:
    async def silent() -> AsyncIterator[bytes]:
        async for request in images(1):
            yield request
        raise DeadlineExpired("no message came for 300 s")

    async def as_the_transport_does(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        try:
            async for request in requests:
                yield request
        except TriviumError:
            raise broken(code_pb2.CANCELLED) from None

    one = endpoint()
    fake(one).follow = as_the_transport_does
    with pytest.raises(DeadlineExpired, match="no message came"):
        await Trial(one).stream(silent())
    assert (one.in_flight, one.ejected) == (0, False)
