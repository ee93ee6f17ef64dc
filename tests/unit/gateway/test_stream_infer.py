"""ModelStreamInfer is split by message, each goes to its own model, and what waits is bounded."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from gateway.addressing import STREAM_INFER
from gateway.room import OVERHEAD
from gateway.settings import StreamSettings
from gateway.stream_infer import StreamInfer
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from tests.unit.gateway.fakes import Gateway, endpoint, fake
from tests.unit.gateway.streaming import Writing, answer, ask, request, serving, writing


async def test_each_message_goes_to_the_model_that_it_names_in_the_order_of_its_model() -> None:
    requests = [request(str(number), "digits" if number % 2 else "shapes") for number in range(20)]
    found = await ask([serving("one", "digits"), serving("two", "shapes")], requests)
    assert [one for one in found if one[1] == "one"] == [(str(n), "one", "") for n in range(1, 20, 2)]
    assert [one for one in found if one[1] == "two"] == [(str(n), "two", "") for n in range(0, 20, 2)]


async def test_more_messages_than_the_window_are_answered_too() -> None:
    found = await ask([serving("one")], [request(str(number)) for number in range(50)], window=3)
    assert [one[0] for one in found] == [str(number) for number in range(50)]


async def test_more_failures_than_the_window_are_answered_too() -> None:
    found = await ask([serving("one")], [*(request(str(n), "nope") for n in range(10)), request("last")], window=3)
    assert [one[0] for one in found] == [*map(str, range(10)), "last"]


async def test_an_unknown_model_a_malformed_version_and_garbage_fail_alone() -> None:
    wrong = oip.ModelInferRequest(model_name="digits", model_version="x", id="b").SerializeToString()
    found = await ask([serving("one")], [request("a", "nope"), wrong, b"\x0a\xff", request("c")])
    assert sorted(found) == [
        ("", "", "the 2 bytes of the request are no inference.ModelInferRequest"),
        ("a", "", "Request for unknown model: 'nope' is not found"),
        (
            "b",
            "",
            "failed to get model version from specified version string 'x' (details: stol), "
            "version should be an integral value > 0",
        ),
        ("c", "one", ""),
    ]


async def test_a_caller_that_leaves_ends_the_streams_to_the_instances() -> None:
    one = endpoint("one")
    ended = asyncio.Event()

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        try:
            async for _ in requests:
                yield answer("a", "one")
        finally:
            ended.set()

    fake(one).follow = follow
    gateway = Gateway([one])

    async def endless() -> AsyncIterator[bytes]:
        yield request("a")
        await asyncio.Event().wait()

    answers = StreamInfer(gateway.routes, gateway.dispatch, gateway.infer, gateway.texts, StreamSettings()).stream(
        endless(), Call(STREAM_INFER, Deadline())
    )
    await anext(answers)
    await answers.aclose()  # type: ignore[attr-defined]
    await ended.wait()
    assert one.in_flight == 0


async def test_a_model_that_has_much_to_do_holds_up_no_other_one() -> None:
    busy, told = writing("busy")
    caller = Writing(busy, serving("one"), window=2)
    caller.ask(*(f"long {number}" for number in range(9)))
    for number in range(9):
        caller.requests.put_nowait(request(f"short {number}"))
    found = [await caller.next() for _ in range(9)]
    assert found == [(f"short {number}", True) for number in range(9)]
    assert fake(busy).streamed == ["long 0", "long 1"]
    for number in range(9):
        told.put_nowait(f"long {number}.")
        assert await caller.next() == (f"long {number}", True)
    await caller.end()


async def test_what_waits_is_bounded_by_its_size_and_then_the_caller_is_not_read() -> None:
    busy, told = writing("busy")
    gateway = Gateway([busy])
    size = len(request("00", "words")) + OVERHEAD
    settings = StreamSettings(window=2, max_bytes=4 * size - 1)
    method = StreamInfer(gateway.routes, gateway.dispatch, gateway.infer, gateway.texts, settings)
    read = 0

    async def messages() -> AsyncIterator[bytes]:
        nonlocal read
        for number in range(10):
            read += 1
            yield request(f"{number:02}", "words")

    answers: Any = method.stream(messages(), Call(STREAM_INFER, Deadline()))
    for number in range(10):
        reading = asyncio.ensure_future(anext(answers))
        for _ in range(50):
            await asyncio.sleep(0)
        assert read == min(10, number + 5)  # four that take the room, and one that waits for some
        told.put_nowait(f"{number:02}.")
        await reading
    assert [data async for data in answers] == []
    await gateway.close()


async def test_a_message_of_any_size_has_room_when_there_is_any() -> None:
    found = await ask([serving("one")], [request("a" * 99_999), request("b")], max_bytes=1)
    assert [one[0][:1] for one in found] == ["a", "b"]
