"""ModelStreamInfer is split by message, and one failure is one message."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from gateway.addressing import STREAM_INFER
from gateway.endpoint import Endpoint
from gateway.room import OVERHEAD
from gateway.settings import StreamSettings
from gateway.stream_infer import StreamInfer
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import Overloaded
from tests.unit.gateway.fakes import Gateway, broken, endpoint, fake, model, refused


def request(request_id: str, name: str = "digits", *, sequence: int = 0) -> bytes:
    """One message of the caller."""
    made = oip.ModelInferRequest(model_name=name, id=request_id)
    if sequence:
        made.parameters["sequence_id"].int64_param = sequence
    return made.SerializeToString()


def answer(request_id: str, instance: str, *, final: bool = True) -> bytes:
    """One message of an instance, which names itself in the version."""
    made = oip.ModelStreamInferResponse()
    made.infer_response.id, made.infer_response.model_version = request_id, instance
    made.infer_response.parameters["triton_final_response"].bool_param = final
    return made.SerializeToString()


def serving(
    name: str, *models: str, breaks_after: int | None = None, repeats: int = 1, error: Exception | None = None
) -> Endpoint:
    """An endpoint that answers each request, and breaks its stream after so many answers."""
    made = endpoint(name, *(model(found) for found in models or ("digits",)))
    answered = [0]

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for data in requests:
            fake(made).streamed.append(oip.ModelInferRequest.FromString(data).id)
            for number in range(repeats):
                if answered[0] == breaks_after:
                    raise error or broken()
                answered[0] += 1
                yield answer(fake(made).streamed[-1], name, final=number == repeats - 1)

    fake(made).follow = follow
    return made


async def ask(
    endpoints: Sequence[Endpoint], requests: Sequence[bytes], *, window: int = 64, max_bytes: int = 1 << 20
) -> list[tuple[str, str, str]]:
    """Id, instance and error message of every answer."""
    gateway = Gateway(list(endpoints))
    method = StreamInfer(
        gateway.routes, gateway.dispatch, gateway.infer, gateway.texts, StreamSettings(window, max_bytes)
    )

    async def messages() -> AsyncIterator[bytes]:
        for data in requests:
            yield data

    found = []
    async with asyncio.timeout(10):
        async for data in method.stream(messages(), Call(STREAM_INFER, Deadline())):
            response = oip.ModelStreamInferResponse.FromString(data)
            found.append((response.infer_response.id, response.infer_response.model_version, response.error_message))
    await gateway.close()
    assert all(one.in_flight in (0, -10) for one in endpoints)
    return found


def first(made: Endpoint) -> Endpoint:
    """The endpoint that is picked first."""
    made.in_flight = -10
    return made


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


def writing(name: str, *, breaks_after: int = 0) -> tuple[Endpoint, "asyncio.Queue[str | None]"]:
    """An endpoint that writes the texts that its requests ask for side by side, a token when the test says so.

    Each id put into the queue sends one more token of that request's text; "ID." sends an empty last answer.
    """
    made = endpoint(name, model("words"))
    told: asyncio.Queue[str | None] = asyncio.Queue()

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        got = asyncio.Event()

        async def read() -> None:
            async for data in requests:
                fake(made).streamed.append(oip.ModelInferRequest.FromString(data).id)
                got.set()
            told.put_nowait(None)

        reading = asyncio.create_task(read())
        answered = 0
        try:
            while (sent := await told.get()) is not None:
                while sent.removesuffix(".") not in fake(made).streamed:
                    got.clear()
                    await got.wait()
                answered += 1
                yield answer(sent.removesuffix("."), name, final=sent.endswith("."))
                if answered == breaks_after:
                    raise broken()
        finally:
            reading.cancel()

    fake(made).follow = follow
    return made, told


class Writing:
    """One caller of texts by ModelStreamInfer."""

    def __init__(self, *endpoints: Endpoint, window: int = 64) -> None:
        self.gateway = Gateway(list(endpoints))
        method = StreamInfer(
            self.gateway.routes, self.gateway.dispatch, self.gateway.infer, self.gateway.texts, StreamSettings(window)
        )
        self.requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.answers = method.stream(self._messages(), Call(STREAM_INFER, Deadline()))

    async def _messages(self) -> AsyncIterator[bytes]:
        while (data := await self.requests.get()) is not None:
            yield data

    def ask(self, *ids: str) -> None:
        """Asks for one text for each id."""
        for request_id in ids:
            self.requests.put_nowait(request(request_id, "words"))

    async def next(self) -> tuple[str, bool | str]:
        """Id of the next answer, and whether it is the last one, or the error."""
        async with asyncio.timeout(5):
            response = oip.ModelStreamInferResponse.FromString(await anext(self.answers))
        final = response.infer_response.parameters["triton_final_response"].bool_param
        return response.infer_response.id, response.error_message or final

    async def end(self) -> None:
        """The caller has no more requests, and has every answer."""
        self.requests.put_nowait(None)
        async with asyncio.timeout(5):
            assert [data async for data in self.answers] == []
        await self.gateway.close()


async def test_texts_are_written_side_by_side_and_end_with_an_empty_last_answer() -> None:
    one, told = writing("one")
    caller = Writing(one)
    caller.ask("a", "b")
    for sent in ("a", "b", "b", "a", "b.", "a", "a."):
        told.put_nowait(sent)
        assert await caller.next() == (sent.removesuffix("."), sent.endswith("."))
    await caller.end()
    assert one.in_flight == 0


async def test_a_text_under_way_holds_one_place_of_the_window_and_nothing_else() -> None:
    one, told = writing("one")
    caller = Writing(one, window=2)
    caller.ask("long", "b", "c", "d")
    for short in ("b", "c", "d"):
        told.put_nowait("long")
        assert await caller.next() == ("long", False)
        told.put_nowait(f"{short}.")
        assert await caller.next() == (short, True)
    told.put_nowait("long.")
    assert await caller.next() == ("long", True)
    await caller.end()


async def test_a_text_that_has_begun_gets_an_error_when_its_instance_dies_and_one_that_has_not_goes_elsewhere() -> None:
    bad, told = writing("bad", breaks_after=1)
    good, more = writing("good")
    caller = Writing(first(bad), good)
    caller.ask("a", "b")
    told.put_nowait("a")
    assert await caller.next() == ("a", False)
    failed = await caller.next()
    assert (failed[0], "connection to bad failed" in str(failed[1])) == ("a", True)
    more.put_nowait("b.")
    assert await caller.next() == ("b", True)
    await caller.end()


async def test_of_texts_that_share_an_id_none_is_begun_again_when_one_of_them_has_begun() -> None:
    bad, told = writing("bad", breaks_after=2)
    good, more = writing("good")
    caller = Writing(first(bad), good)
    caller.ask("", "", "c")
    for sent in ("", "."):  # of which of the two, nobody can tell
        told.put_nowait(sent)
        assert await caller.next() == ("", sent == ".")
    assert "failed" in str((await caller.next())[1])
    more.put_nowait("c.")
    assert await caller.next() == ("c", True)
    assert fake(good).streamed == ["c"]
    await caller.end()


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
