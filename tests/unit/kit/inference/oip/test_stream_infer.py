"""A stream of requests: answers keep their order, and a failure is one message of it."""

import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import pytest

from inference import grpc_service_pb2 as pb
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import Draining, ModelNotFound
from services.kit.inference.job import Output
from services.kit.inference.manifest import Manifest
from services.kit.inference.models import Models
from services.kit.inference.oip import Answer, OipServicer
from services.kit.open_inference import ENDS_WITH_STATUS
from tests.unit.kit.inference.oip.requests import infer, stream


async def test_a_stream_answers_in_order_and_outlives_an_error(servicer: OipServicer) -> None:
    slow = pb.ModelInferRequest(model_name="slow", id="first")
    slow.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    slow.raw_input_contents.append(struct.pack("<f", 30))  # 30 rounds

    answers = await stream(servicer, slow, infer(id="second"), infer("nope", id="third"), infer(id="fourth"))

    assert [answer.infer_response.id for answer in answers] == ["first", "second", "third", "fourth"]
    failed = answers.pop(2)
    assert failed.error_message == "Request for unknown model: 'nope' is not found"
    assert not failed.infer_response.outputs
    assert all(a.infer_response.parameters["triton_final_response"].bool_param for a in answers)
    assert not any(answer.error_message for answer in answers)
    assert await stream(servicer) == []


async def test_a_stream_ends_with_the_status_of_the_first_failure_where_its_caller_wants_that(
    servicer: OipServicer,
) -> None:
    async def sent() -> AsyncIterator[Any]:
        for name in ("add", "nope", "add"):
            yield infer(name)

    wanting = Call("/inference.GRPCInferenceService/ModelStreamInfer", Deadline.after(30), (ENDS_WITH_STATUS,))
    answers = servicer.model_stream_infer(sent(), wanting)
    assert not (await anext(answers)).error_message
    with pytest.raises(ModelNotFound):
        await anext(answers)


class Several:
    """Gives two answers to each request, and fails with the second one where that is wished for."""

    parameters: Mapping[str, tuple[str, ...]] = {"breaks": ("bool_param",)}

    def __init__(self) -> None:
        self.deadlines: list[Deadline] = []

    async def answers(self, model: Any, inputs: Any, given: Any, this: Call) -> AsyncGenerator[Answer, None]:
        self.deadlines.append(this.deadline)
        output = Output({"sum": inputs["a"], "difference": inputs["a"]}, 0.0, 0.0, 1)
        yield Answer(output, {}, final=False)
        if "breaks" in given:
            raise Draining("leaving")
        yield Answer(output, {}, final=True)


@pytest.mark.parametrize("ends", [False, True])
async def test_a_failure_after_some_answers_is_a_message_or_the_status_of_the_stream(
    models: Models[None], monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(Manifest, "decoupled", True)
    servicer = OipServicer(models, lambda: True, decoupled=Several())
    breaks = infer(id="b")
    breaks.parameters["breaks"].bool_param = True

    async def sent() -> AsyncIterator[Any]:
        yield breaks

    metadata = (ENDS_WITH_STATUS,) if ends else ()
    found, failure = [], None
    try:
        async for answer in servicer.model_stream_infer(sent(), Call("/", Deadline.after(30), metadata)):
            found.append((answer.infer_response.id, answer.error_message))
    except Draining as error:
        failure = error
    assert found == [("b", ""), *([] if ends else [("b", "leaving")])]
    assert (failure is not None) == ends


async def test_the_timeout_of_a_request_with_several_answers_is_its_own(
    models: Models[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manifest, "decoupled", True)
    several = Several()
    hasty, patient = infer(id="a"), infer(id="b")
    hasty.parameters["timeout"].int64_param, patient.parameters["timeout"].uint64_param = 5_000_000, 2**64 - 1
    await stream(OipServicer(models, lambda: True, decoupled=several), hasty, infer(id="c"), patient)
    left_s = sorted(deadline.remaining_s() for deadline in several.deadlines)
    assert 4 < left_s[0] <= 5
    assert 25 < left_s[1] <= left_s[2] <= 30


async def test_our_own_fault_on_a_stream_tells_the_caller_nothing_of_it(models: Models[None]) -> None:
    async def broken(model: Any, inputs: Any, given: Any, this: Call) -> Any:
        raise ZeroDivisionError("a secret")

    [answer] = await stream(OipServicer(models, lambda: True, broken), infer(id="1"))
    assert answer.error_message.startswith("internal error")
    assert answer.infer_response.id == "1"


async def test_requests_of_a_stream_share_a_run(servicer: OipServicer, models: Models[None]) -> None:
    await stream(servicer, *(infer(id=str(number)) for number in range(64)))
    counted = models.find("add").batcher.statistics
    assert counted.success.count == 64
    assert counted.executions < 64
