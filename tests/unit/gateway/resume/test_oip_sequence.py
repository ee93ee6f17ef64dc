"""Sequences of the Open Inference Protocol go on wherever their instance breaks, and in order."""

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from gateway.methods import MODEL_INFER
from gateway.settings import ResumeSettings
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import Draining, InvalidField, NoInstance, SequenceNotStarted, StateMismatch, TriviumError
from services.kit.sequences import STATE
from services.kit.transport.upstream import CallFailed, Reply
from tests.unit.gateway.fakes import Gateway, broken, endpoint, fake, model, refused
from tests.unit.gateway.resume.fakes import settled
from tests.unit.gateway.resume.steps import Caller, Id, Instance, request

SUMS = [1.0, 2.5, 4.25, 6.125]  # of the steps 1, 2, 3, 4


@pytest.mark.parametrize("sequence", [7, "seven"])
async def test_the_state_goes_from_step_to_step_and_stays_here(sequence: Id) -> None:
    caller = Caller(one := Instance())
    steps = [request(value, sequence, start=value == 1, end=value == 4) for value in (1, 2, 3, 4)]
    assert [await caller.infer(step) for step in steps] == SUMS
    assert len(caller.gateway.sequences) == 0
    with pytest.raises(SequenceNotStarted, match="to model 'sums' must specify the START flag"):
        await caller.infer(request(5, sequence))
    assert all(STATE in got.parameters for got in one.got)
    await caller.close()


@pytest.mark.parametrize("error", [broken(), broken(sent=False), refused(Draining("leaving", stage="admission"))])
@pytest.mark.parametrize("at", range(4))
async def test_a_sequence_goes_on_wherever_its_instance_breaks(error: Exception, at: int) -> None:
    one, other = Instance("one"), Instance("other")
    caller = Caller(one, other)
    for value in range(4):
        if value == at:
            one.fails, other.fails = [error], [error]
        one.fails = one.fails[:1]
        assert await caller.infer(request(value + 1, start=not value, end=value == 3)) == SUMS[value]
    assert caller.calls[at].trailers[-1][0] == "trivium-attempts"
    assert int(caller.calls[at].trailers[-1][1]) > 1
    await caller.close()


async def test_a_step_that_fails_leaves_the_sequence_as_it_was() -> None:
    caller = Caller(one := Instance())
    assert await caller.infer(request(1, start=True)) == SUMS[0]
    one.fails = [refused(InvalidField("wrong", field="inputs"))]
    with pytest.raises(CallFailed, match="wrong"):
        await caller.infer(request(9))
    assert await caller.infer(request(2)) == SUMS[1]
    one.fails = [refused(InvalidField("wrong", field="inputs"))]
    with pytest.raises(CallFailed):
        await caller.infer(request(1, 8, start=True))
    with pytest.raises(SequenceNotStarted):
        await caller.infer(request(2, 8))
    await caller.close()


async def test_a_sequence_stays_with_its_bundle_when_a_newer_one_comes() -> None:
    old, newer, foreign = Instance("old"), Instance("newer", 2, "d2"), Instance("foreign", 1, "d3")
    caller = Caller(old, newer, foreign, resume=ResumeSettings(timeout_s=0.05))
    caller.gateway.routes.publish([old.endpoint], answered=True)
    assert await caller.infer(request(1, start=True)) == SUMS[0]
    caller.gateway.routes.publish([old.endpoint, newer.endpoint, foreign.endpoint], answered=True)
    assert [await caller.infer(request(value)) for value in (2, 3)] == SUMS[1:3]
    assert [got.model_version for got in old.got] == ["", "1", "1"]
    caller.gateway.routes.publish([newer.endpoint, foreign.endpoint], answered=True)
    with pytest.raises(NoInstance):
        await caller.infer(request(4))
    assert newer.got == foreign.got == []
    caller.gateway.routes.publish([old.endpoint], answered=True)
    assert await caller.infer(request(4)) == SUMS[3]
    await caller.close()


@pytest.mark.parametrize(("first", "later"), [("", "1"), ("1", "")])
async def test_a_version_that_is_named_and_one_that_is_not_find_the_same_sequence(first: str, later: str) -> None:
    caller = Caller(Instance())
    named = [first, later, first, later]
    steps = [request(value + 1, start=not value, version=version) for value, version in enumerate(named)]
    work = [
        asyncio.ensure_future(caller.infer(step)) for step in steps
    ]  # those behind the first come before its answer
    assert await asyncio.gather(*work) == SUMS
    with pytest.raises(StateMismatch, match="is live"):
        await caller.infer(request(1, start=True, version=later))
    assert await caller.infer(request(5, end=True, version=later)) == SUMS[3] * 0.5 + 5
    assert len(caller.gateway.sequences) == 0
    await caller.close()


async def test_sequences_of_two_versions_are_two_even_under_the_same_id() -> None:
    caller = Caller(old := Instance("old"), newer := Instance("newer", 2, "d2"))
    for value in (1, 2):
        for version in ("1", "2"):
            assert await caller.infer(request(value, start=value == 1, version=version)) == SUMS[value - 1]
    assert (len(old.got), len(newer.got), len(caller.gateway.sequences)) == (2, 2, 2)
    assert await caller.infer(request(1, 8, start=True)) == SUMS[0]
    with pytest.raises(SequenceNotStarted):
        await caller.infer(request(2, 8, version="1"))
    fake(newer.endpoint).hanging = gate = asyncio.Event()
    first = asyncio.ensure_future(caller.infer(request(1, 9, start=True)))
    foreign = asyncio.ensure_future(caller.infer(request(2, 9, version="1")))
    await settled()
    gate.set()
    assert await first == SUMS[0]
    with pytest.raises(SequenceNotStarted, match="sequence 9 is one of sums:2"):
        await foreign
    await caller.close()


async def test_a_live_sequence_waits_for_an_instance() -> None:
    caller = Caller(one := Instance())
    await caller.infer(request(1, start=True))
    caller.gateway.routes.publish([], answered=True)
    waiting = asyncio.ensure_future(caller.infer(request(2)))
    await settled()
    assert not waiting.done()
    caller.gateway.routes.publish([one.endpoint], answered=True)
    assert await waiting == SUMS[1]
    await caller.close()


async def test_a_step_at_which_an_instance_fails_is_computed_by_another_one() -> None:
    one, other = Instance("one"), Instance("other")
    caller = Caller(one, other)
    one.fails = [refused(TriviumError("a bug"))] * 2
    one.endpoint.in_flight = -1
    assert [await caller.infer(request(value, start=value == 1)) for value in (1, 2)] == SUMS[:2]
    assert (len(one.got), len(other.got)) == (2, 2)
    one.endpoint.in_flight += 1
    await caller.close()


async def test_switched_off_the_first_failure_of_a_step_stands() -> None:
    one, other = Instance("one"), Instance("other")
    caller = Caller(one, other, resume=ResumeSettings(enabled=False))
    one.fails, other.fails = [broken()], [broken()]
    with pytest.raises(NoInstance):
        await caller.infer(request(1, start=True))
    assert len(one.got) + len(other.got) == 1
    await caller.close()


async def test_steps_of_one_sequence_take_turns_in_the_order_they_came() -> None:
    caller = Caller(one := Instance())
    fake(one.endpoint).hanging = gate = asyncio.Event()
    work = [asyncio.ensure_future(caller.infer(request(value, start=value == 1))) for value in (1, 2, 3, 4)]
    await settled()
    assert len(fake(one.endpoint).seen) == 1
    gate.set()
    assert await asyncio.gather(*work) == SUMS
    await caller.close()


def _plain(**parameters: bool | int | str) -> oip.ModelInferRequest:
    made = oip.ModelInferRequest(model_name="sums", id="1.0", raw_input_contents=[struct.pack("<f", 1)])
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(made.parameters[name], kind, value)
    return made


@pytest.mark.parametrize(
    "given",
    [
        _plain(),
        _plain(sequence_id=0),
        _plain(sequence_id=""),
        _plain(sequence_id=True),
        _plain(sequence_id=7, sequence_start=1),
        _plain(sequence_id=7, sequence_start=True, sequence_end="yes"),
        _plain(sequence_id=7, sequence_start=True, trivium_state="d1 1.0"),
    ],
    ids=str,
)
async def test_what_is_no_sequence_of_ours_passes_as_it_is(given: oip.ModelInferRequest) -> None:
    caller = Caller(one := Instance())
    handler = caller.gateway.infer.methods()[MODEL_INFER].handler
    answer = await handler(given.SerializeToString(), Call(MODEL_INFER, Deadline()))
    assert (STATE in oip.ModelInferResponse.FromString(answer).parameters) == (STATE in given.parameters)
    assert one.got == [given]
    assert len(caller.gateway.sequences) == 0
    await caller.close()


async def test_a_step_whose_caller_keeps_the_state_can_be_computed_twice() -> None:
    one, other = Instance("one"), Instance("other")
    caller = Caller(one, other)
    one.fails, other.fails = [broken()], []
    one.endpoint.in_flight = -1
    handler = caller.gateway.infer.methods()[MODEL_INFER].handler
    given = _plain(sequence_id=7, trivium_state="d1 2.0")
    answer = oip.ModelInferResponse.FromString(await handler(given.SerializeToString(), Call(MODEL_INFER, Deadline())))
    assert answer.parameters[STATE].string_param == "d1 2.0"
    assert len(other.got) == 1
    one.endpoint.in_flight += 1
    await caller.close()


async def test_models_without_state_are_not_parsed_whatever_they_say() -> None:
    plain = endpoint("plain", model("digits"))
    gateway = Gateway([plain, Instance().endpoint])
    data = request(1, name="digits").SerializeToString()
    assert await gateway.infer.infer(data, Call(MODEL_INFER, Deadline())) == b"answer of plain"
    assert fake(plain).seen[0].request is data


async def test_an_answer_without_state_is_a_fault_of_the_instance() -> None:
    caller = Caller(one := Instance())
    one.with_state = False
    with pytest.raises(CallFailed, match="brings no state"):
        await caller.infer(request(1, start=True))
    await caller.close()


@pytest.mark.parametrize("window", [1, 3, 64])
async def test_sequences_on_a_stream_go_on_side_by_side_each_in_order(window: int) -> None:
    one, other = Instance("one"), Instance("other")
    caller = Caller(one, other, window=window)
    one.fails, other.fails = [None, broken(), None, broken()], [None, None, broken()]
    steps = [request(value, sequence, start=value == 1) for value in (1, 2, 3, 4) for sequence in (1, "b", 3)]
    found = await caller.stream(*steps)
    for sequence in (1, "b", 3):
        expected = [(f"{sequence} {value}", total) for value, total in zip((1, 2, 3, 4), SUMS, strict=True)]
        assert [answer for answer in found if answer[0].startswith(f"{sequence} ")] == expected
    assert len(found) == len(steps)
    await caller.close()


async def test_steps_that_wait_for_an_instance_do_not_hold_up_the_other_requests_of_their_stream() -> None:
    caller = Caller(one := Instance(), window=2)
    await caller.infer(request(1, start=True))
    plain, last = endpoint("plain", model("digits")), asyncio.Event()

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for data in requests:
            found = oip.ModelInferRequest.FromString(data)
            answer = oip.ModelInferResponse(id=found.id, raw_output_contents=found.raw_input_contents)
            answer.parameters["triton_final_response"].bool_param = True
            yield oip.ModelStreamInferResponse(infer_response=answer).SerializeToString()
            if found.id == "0 5":
                last.set()

    fake(plain).follow = follow
    caller.gateway.routes.publish([plain], answered=True)
    others = [request(value, 0, name="digits") for value in (1, 2, 3, 4, 5)]
    work = asyncio.ensure_future(caller.stream(request(2), request(3), *others))
    async with asyncio.timeout(5):
        await last.wait()
    caller.gateway.routes.publish([plain, one.endpoint], answered=True)
    steps = [("7 2", SUMS[1]), ("7 3", SUMS[2])]
    assert await work == [*((f"0 {value}", float(value)) for value in (1, 2, 3, 4, 5)), *steps]
    await caller.close()


async def test_a_step_that_fails_on_a_stream_is_one_message() -> None:
    caller = Caller(one := Instance())
    found = await caller.stream(request(9, 5), request(1, start=True), request(1, -3, start=True), request(2))
    assert dict(found)["7 2"] == SUMS[1]
    errors = [text for _, text in found if isinstance(text, str)]
    assert len(errors) == 2
    assert any("must specify the START flag" in text for text in errors)
    assert any("must be 0 or more" in text for text in errors)
    assert len(one.got) == 2
    await caller.close()


async def test_a_caller_that_leaves_its_stream_leaves_no_step_behind() -> None:
    caller = Caller(one := Instance())
    fake(one.endpoint).hanging = asyncio.Event()
    work = asyncio.ensure_future(caller.stream(request(1, start=True), request(2)))
    await settled(lambda: bool(fake(one.endpoint).seen))
    work.cancel()
    await asyncio.wait((work,))
    assert fake(one.endpoint).cancelled == 1
    assert len(caller.gateway.sequences) == 0
    await caller.close()


async def test_a_sequence_with_many_steps_ahead_holds_up_no_other_one() -> None:
    caller, hanging = Caller(one := Instance(), window=2), asyncio.Event()
    unary = fake(one.endpoint).unary

    async def hangs(path: str, data: bytes, *rest: Any) -> Reply:
        if oip.ModelInferRequest.FromString(data).id == "7 1":
            await hanging.wait()
        return await unary(path, data, *rest)

    fake(one.endpoint).unary = hangs  # type: ignore[assignment,method-assign]
    steps = [request(value, 7, start=value == 1) for value in range(1, 101)]
    work = asyncio.ensure_future(caller.stream(*steps, request(1, 8, start=True)))
    await settled(lambda: bool(one.got))
    assert [found.id for found in one.got] == ["8 1"]
    hanging.set()
    assert [found[0] for found in await work] == ["8 1", *(step.id for step in steps)]
    await caller.close()
