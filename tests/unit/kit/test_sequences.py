"""Sequences of the Open Inference Protocol: which request belongs to which, in what order; what a failure leaves."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2

from inference import grpc_service_pb2 as oip
from services.kit.errors import InvalidField, Overloaded, SequenceNotStarted, StateMismatch, UpstreamError
from services.kit.sequences import MAX_ID, STATE, SequenceId, SequenceLimits, Sequences, Step, step_of

MODEL = ("lstm", 1)


class Clock:
    """Stands still but for what the test does."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sequences(clock: Clock) -> Sequences[int]:
    return Sequences(SequenceLimits(max_live=3, idle_s=10), clock)


def parameters(**values: Any) -> dict[str, oip.InferParameter]:
    """The parameters of a request: numbers as int64, but for the tuples of field and value."""
    fields = {bool: "bool_param", int: "int64_param", str: "string_param"}
    found = {}
    for name, value in values.items():
        field, value = value if isinstance(value, tuple) else (fields[type(value)], value)
        found[name] = oip.InferParameter(**{field: value})
    return found


def first(name: SequenceId = 7, *, end: bool = False) -> Step:
    return Step(name, start=True, end=end)


async def take(sequences: Sequences[int], step: Step, model: tuple[str, int] = MODEL) -> int:
    """The number of the request within its sequence."""
    async with sequences.turn(*model, step) as live:
        live.value = (live.value or 0) + 1
        return live.value


class Held:
    """A request that is in work until the test lets it end, well or badly."""

    def __init__(self, sequences: Sequences[int], step: Step) -> None:
        self.entered, self._outcome = asyncio.Event(), asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._work(sequences, step))

    async def _work(self, sequences: Sequences[int], step: Step) -> int:
        async with sequences.turn(*MODEL, step) as live:
            self.entered.set()
            await self._outcome
            live.value = (live.value or 0) + 1
            return live.value

    async def succeed(self) -> int:
        self._outcome.set_result(None)
        return await self.task

    async def fail(self) -> None:
        self._outcome.set_exception(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await self.task

    async def leave(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def held(sequences: Sequences[int], step: Step) -> Held:
    """One whose turn has come."""
    request = Held(sequences, step)
    await request.entered.wait()
    return request


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("given", "step"),
    [
        ({}, Step()),
        ({"sequence_id": 7, "sequence_start": True}, Step(7, start=True)),
        ({"sequence_id": ("uint64_param", 2**64 - 1), "sequence_end": True}, Step(2**64 - 1, end=True)),
        ({"sequence_id": "7", "sequence_start": False, "sequence_end": False}, Step("7")),
        ({"sequence_id": 0}, Step(0)),
        ({"sequence_id": ""}, Step("")),
        ({"sequence_id": "i" * 22}, Step("i" * 22)),
        ({"sequence_id": "ü" * (MAX_ID // 2)}, Step("ü" * (MAX_ID // 2))),
        ({STATE: ""}, Step(state="")),
        ({STATE: "AAAA", "sequence_id": 7}, Step(7, state="AAAA")),
    ],
)
def test_a_request_says_where_in_its_sequence_it_is(given: dict[str, Any], step: Step) -> None:
    assert step_of(parameters(**given)) == step


@pytest.mark.parametrize(
    ("sequence_id", "limit", "value"),
    [
        (-1, "0", "-1"),
        (-(2**63), "0", str(-(2**63))),
        ("i" * (MAX_ID + 1), "256", "257"),
        ("ü" * (MAX_ID // 2) + "i", "256", "257"),
        ("i" * 10_000, "256", "10000"),
    ],
    ids=["minus one", "the least integer", "257 bytes", "257 bytes of UTF-8", "10 000 characters"],
)
def test_an_id_below_0_or_of_too_many_bytes_is_refused(sequence_id: SequenceId, limit: str, value: str) -> None:
    with pytest.raises(InvalidField) as caught:
        step_of(parameters(sequence_id=sequence_id))
    assert caught.value.metadata == {"field": "parameters.sequence_id", "limit": limit, "value": value}


@pytest.mark.parametrize("sequence_id", [1, 2**64 - 1, "a", "0", "i" * 22, "i" * 256, "日本", "a\nb"])
async def test_a_sequence_lives_from_start_to_end(sequences: Sequences[int], sequence_id: SequenceId) -> None:
    assert await take(sequences, first(sequence_id)) == 1
    assert await take(sequences, Step(sequence_id)) == 2
    assert len(sequences) == 1
    assert await take(sequences, Step(sequence_id, end=True)) == 3
    assert len(sequences) == 0
    with pytest.raises(SequenceNotStarted):
        await take(sequences, Step(sequence_id))
    assert await take(sequences, first(sequence_id)) == 1


async def test_a_sequence_may_be_one_request(sequences: Sequences[int]) -> None:
    assert await take(sequences, first(end=True)) == 1
    assert len(sequences) == 0


async def test_a_number_is_not_the_text_of_it_and_each_model_and_version_has_its_own(sequences: Sequences[int]) -> None:
    sequences = Sequences(SequenceLimits(max_live=4))
    keys: list[tuple[SequenceId, tuple[str, int]]] = [
        (7, ("lstm", 1)),
        ("7", ("lstm", 1)),
        (7, ("lstm", 2)),
        (7, ("gru", 1)),
    ]
    for name, model in keys:
        assert await take(sequences, first(name), model) == 1
    assert len(sequences) == 4


@pytest.mark.parametrize("step", [Step(0), Step(""), first(0), first("", end=True)])
async def test_a_request_without_id_is_refused(sequences: Sequences[int], step: Step) -> None:
    with pytest.raises(InvalidField, match="must specify a non-zero or non-empty correlation ID") as caught:
        await take(sequences, step)
    assert caught.value.metadata == {"field": "parameters.sequence_id", "value": repr(step.id)}
    assert len(sequences) == 0


@pytest.mark.parametrize("step", [Step(8), Step("7"), Step(8, end=True)])
async def test_a_sequence_that_was_not_started_is_refused(sequences: Sequences[int], step: Step) -> None:
    await take(sequences, first(7))
    with pytest.raises(SequenceNotStarted, match="must specify the START flag on the first request") as caught:
        await take(sequences, step)
    assert caught.value.metadata == {"field": "parameters.sequence_start", "value": str(step.id)}
    assert len(sequences) == 1


async def test_an_id_that_is_live_cannot_be_started_again(sequences: Sequences[int]) -> None:
    await take(sequences, first(7))
    with pytest.raises(StateMismatch, match="sequence 7 to model 'lstm' is live") as caught:
        await take(sequences, first(7))
    assert caught.value.metadata == {"field": "parameters.sequence_start", "value": "7"}
    assert await take(sequences, Step(7)) == 2


async def test_no_more_sequences_than_the_limit_live_and_the_others_go_on(sequences: Sequences[int]) -> None:
    for name in (1, 2, 3):
        await take(sequences, first(name))
    with pytest.raises(Overloaded) as caught:
        await take(sequences, first(4))
    assert caught.value.metadata == {"limit": "3", "value": "3"}
    assert await take(sequences, Step(1, end=True)) == 2
    assert await take(sequences, first(4)) == 1


async def test_requests_of_one_sequence_take_turns_in_the_order_they_came(sequences: Sequences[int]) -> None:
    requests = [await held(sequences, first())]
    requests += [Held(sequences, Step(7)) for _ in range(5)]
    requests.append(Held(sequences, Step(7, end=True)))
    await settled()
    for number, request in enumerate(requests, 1):
        assert [other.entered.is_set() for other in requests] == [index < number for index in range(len(requests))]
        assert await request.succeed() == number
        await settled()
    assert len(sequences) == 0


async def test_sequences_do_not_wait_for_each_other(sequences: Sequences[int]) -> None:
    slow = await held(sequences, first(1))
    assert await take(sequences, first(2)) == 1
    assert await take(sequences, Step(2)) == 2
    assert await slow.succeed() == 1


async def test_an_id_can_be_started_again_while_its_last_request_is_in_work(sequences: Sequences[int]) -> None:
    await take(sequences, first())
    last = await held(sequences, Step(7, end=True))
    assert await take(sequences, first()) == 1
    assert await last.succeed() == 2
    assert await take(sequences, Step(7)) == 2
    assert len(sequences) == 1


async def test_a_replaced_sequence_whose_end_fails_leaves_its_successor_alone(sequences: Sequences[int]) -> None:
    await take(sequences, first())
    last = await held(sequences, Step(7, end=True))
    assert await take(sequences, first()) == 1
    await last.fail()
    assert await take(sequences, Step(7)) == 2


async def test_nothing_follows_the_last_request(sequences: Sequences[int]) -> None:
    await take(sequences, first())
    last = await held(sequences, Step(7, end=True))
    for step in (Step(7), Step(7, end=True)):
        with pytest.raises(SequenceNotStarted):
            await take(sequences, step)
    assert await last.succeed() == 2


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (InvalidField("over the limit", field="values"), True),
        (UpstreamError(status_pb2.Status(code=code_pb2.INVALID_ARGUMENT)), True),
        (Overloaded("full"), False),
        (UpstreamError(status_pb2.Status(code=code_pb2.UNAVAILABLE)), False),
    ],
)
async def test_a_last_request_that_is_wrong_in_itself_ends_its_sequence(
    sequences: Sequences[int], error: Exception, ended: bool
) -> None:
    """Else one that has reached the model's last step could never be ended."""
    await take(sequences, first())
    with pytest.raises(type(error)):
        async with sequences.turn(*MODEL, Step(7, end=True)):
            raise error
    assert len(sequences) == (0 if ended else 1)


async def test_what_waited_behind_a_failed_request_does_not_go_on_over_the_gap(sequences: Sequences[int]) -> None:
    async with sequences.turn("model", 1, Step(7, start=True)) as live:
        live.value = 1
    failing, entered = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        async with sequences.turn("model", 1, Step(7)):
            entered.set()
            await failing.wait()
            raise ZeroDivisionError

    async def waits(end: bool) -> None:
        async with sequences.turn("model", 1, Step(7, end=end)):
            raise AssertionError("it went on")

    tasks = [asyncio.create_task(fails())]
    await entered.wait()
    tasks += [asyncio.create_task(waits(end)) for end in (False, True)]
    await asyncio.sleep(0)
    failing.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, StateMismatch, StateMismatch]
    async with sequences.turn("model", 1, Step(7, end=True)) as live:  # what comes afterwards knows of the failure
        assert live.value == 1
    assert len(sequences) == 0


@pytest.mark.parametrize("step", [Step(7), Step(7, end=True)])
@pytest.mark.parametrize("ending", [Held.fail, Held.leave], ids=["fails", "leaves"])
async def test_a_failed_request_leaves_its_sequence_as_it_was(
    sequences: Sequences[int], step: Step, ending: Callable[[Held], Any]
) -> None:
    await take(sequences, first())
    await ending(await held(sequences, step))
    assert await take(sequences, Step(7)) == 2
    assert await take(sequences, Step(7, end=True)) == 3
    assert len(sequences) == 0


@pytest.mark.parametrize("ending", [Held.fail, Held.leave], ids=["fails", "leaves"])
async def test_a_sequence_whose_first_request_fails_is_none(
    sequences: Sequences[int], ending: Callable[[Held], Any]
) -> None:
    request = await held(sequences, first())
    waiting = [asyncio.create_task(take(sequences, Step(7))) for _ in range(2)]
    await settled()
    await ending(request)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [SequenceNotStarted] * 2
    assert len(sequences) == 0
    assert await take(sequences, first()) == 1


@pytest.mark.parametrize("step", [Step(7), Step(7, end=True)])
async def test_who_leaves_before_its_turn_takes_nothing_along(sequences: Sequences[int], step: Step) -> None:
    request = await held(sequences, first())
    waiting = Held(sequences, step)
    await settled()
    await waiting.leave()
    assert await request.succeed() == 1
    assert await take(sequences, Step(7)) == 2


async def test_silent_sequences_are_forgotten_and_the_others_stay(sequences: Sequences[int], clock: Clock) -> None:
    await take(sequences, first(1))
    clock.now += 6
    await take(sequences, first(2))
    sequences.sweep()
    assert len(sequences) == 2
    clock.now += 4
    sequences.sweep()
    assert len(sequences) == 1
    with pytest.raises(SequenceNotStarted):
        await take(sequences, Step(1))
    assert await take(sequences, Step(2)) == 2
    clock.now += 9
    sequences.sweep()
    assert await take(sequences, Step(2)) == 3


async def test_a_sequence_in_work_is_not_silent_however_long_it_takes(sequences: Sequences[int], clock: Clock) -> None:
    slow = await held(sequences, first(1))
    clock.now += 1
    await take(sequences, first(2))
    clock.now += 60
    sequences.sweep()
    assert len(sequences) == 1
    assert await slow.succeed() == 1
    sequences.sweep()
    assert await take(sequences, Step(1)) == 2


async def test_a_running_table_sweeps_by_itself() -> None:
    forgotten = asyncio.Event()

    class Watched(Sequences[int]):
        def sweep(self) -> None:
            super().sweep()
            if not len(self):
                forgotten.set()

    sequences = Watched(SequenceLimits(idle_s=0.02))
    await take(sequences, first())
    async with sequences.running():
        await asyncio.wait_for(forgotten.wait(), 5)
    assert len(asyncio.all_tasks()) == 1
