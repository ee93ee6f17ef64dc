"""An instance that fails, refuses or leaves under ModelStreamInfer: one failure is one message."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from gateway.addressing import STREAM_INFER
from gateway.endpoint import Endpoint
from gateway.settings import StreamSettings
from gateway.stream_infer import StreamInfer
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import Overloaded
from tests.unit.gateway.fakes import Gateway, broken, endpoint, fake, refused
from tests.unit.gateway.streaming import answer, ask, first, request, serving


async def test_messages_that_a_broken_stream_left_unanswered_go_to_another_instance() -> None:
    bad, good = first(serving("bad", breaks_after=2)), serving("good")
    found = await ask([bad, good], [request(str(number)) for number in range(6)])
    assert sorted(found) == [(str(n), "bad" if n < 2 else "good", "") for n in range(6)]


async def test_messages_that_a_full_instance_refused_go_to_another_one() -> None:
    full = first(serving("full", breaks_after=0, error=refused(Overloaded("full"))))
    assert await ask([full, serving("good")], [request("a")]) == [("a", "good", "")]


async def test_an_unanswered_step_of_a_sequence_fails_and_the_stream_goes_on() -> None:
    bad, good = first(serving("bad", breaks_after=1)), serving("good")
    found = await ask([bad, good], [request("a"), request("b", sequence=7), request("c")])
    by_id = {one[0]: one for one in found}
    assert by_id["a"] == ("a", "bad", "")
    assert "connection to bad failed" in by_id["b"][2]
    assert by_id["c"] == ("c", "good", "")


async def test_a_request_that_has_half_its_answers_is_not_begun_again() -> None:
    bad, good = first(serving("bad", breaks_after=1, repeats=2)), serving("good", repeats=2)
    found = await ask([bad, good], [request("a"), request("b")])
    assert [one[:2] for one in found if one[0] == "a"] == [("a", "bad"), ("a", "")]
    assert [one[:2] for one in found if one[0] == "b"] == [("b", "good"), ("b", "good")]


async def test_without_another_instance_every_unanswered_message_gets_an_error() -> None:
    found = await ask([serving("bad", breaks_after=1)], [request(str(number)) for number in range(4)])
    assert sorted(one[0] for one in found) == ["0", "1", "2", "3"]
    assert [one[0] for one in found if not one[2]] == ["0"]


async def test_an_instance_that_ends_the_stream_too_early_is_a_broken_one() -> None:
    lazy = first(endpoint("lazy"))

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        await anext(requests)
        for _ in range(0):
            yield b""

    fake(lazy).follow = follow
    assert await ask([lazy, serving("good")], [request("a")]) == [("a", "good", "")]


async def test_an_instance_that_takes_nothing_is_not_tried_for_ever() -> None:
    def closed(name: str) -> Endpoint:
        made = first(endpoint(name))

        async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
            for error in (broken(sent=False),):
                raise error
            yield b""

        fake(made).follow = follow
        return made

    found = await ask([closed("one"), closed("two")], [request(str(number)) for number in range(3)])
    assert sorted(one[0] for one in found) == ["0", "1", "2"]
    assert all("failed" in one[2] for one in found)
    assert sorted(await ask([closed("one"), serving("good")], [request("a")])) == [("a", "good", "")]


async def test_an_answer_that_nobody_can_read_fails_its_request_and_the_stream_goes_on() -> None:
    odd, left = endpoint("odd"), [b"\xff\xff"]

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for data in requests:
            yield left.pop() if left else answer(oip.ModelInferRequest.FromString(data).id, "odd")

    fake(odd).follow = follow
    found = await ask([odd], [request("a"), request("b"), request("c")], window=1)
    assert found == [
        ("a", "", "an answer of odd is no ModelStreamInferResponse"),
        ("b", "odd", ""),
        ("c", "odd", ""),
    ]


async def test_messages_follow_an_instance_that_leaves_to_another_one() -> None:
    leaving, staying = first(serving("leaving")), serving("staying")
    gateway = Gateway([leaving, staying])
    method = StreamInfer(gateway.routes, gateway.dispatch, gateway.infer, gateway.texts, StreamSettings())
    sent: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def messages() -> AsyncIterator[bytes]:
        while (data := await sent.get()) is not None:
            yield data

    answers = method.stream(messages(), Call(STREAM_INFER, Deadline()))
    sent.put_nowait(request("a"))
    assert b"leaving" in await anext(answers)
    leaving.state = "maintenance"
    gateway.routes.publish([leaving, staying], answered=True)
    sent.put_nowait(request("b"))
    assert b"staying" in await anext(answers)
    sent.put_nowait(None)
    assert [data async for data in answers] == []
