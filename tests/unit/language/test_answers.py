import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from services.kit.deadline import Deadline
from services.kit.errors import Draining, NotReady
from services.language.answers import Answers
from services.language.leaving import Leaving
from services.language.sampling import Sampling
from services.language.sequence import Chosen, Sequence
from services.language.writer import Texts
from tests.unit.language.fakes import FakeTokenizer


class Accepting:
    """A scheduler that does nothing by itself."""

    def __init__(self) -> None:
        self.gone: list[Sequence] = []

    def submit(self, sequences: list[Sequence]) -> None:
        self.given = sequences

    def leave(self, sequence: Sequence) -> None:
        self.gone.append(sequence)


def written(woken: asyncio.Event) -> Sequence:
    return Sequence(
        [1],
        Sampling(),
        FakeTokenizer(),  # type: ignore[arg-type]
        limit=100,
        end=frozenset(),
        deadline=Deadline(),
        woken=woken,
    )


async def test_a_reader_too_slow_to_catch_up_does_not_keep_an_instance_that_leaves() -> None:
    scheduler, leaving, woken = Accepting(), Leaving(), asyncio.Event()
    text = written(woken)
    writer: Any = SimpleNamespace(scheduler=scheduler)
    messages = Answers(writer, Texts([text], [1], woken), "model:1", None).messages(leaving)
    said: list[int] = []

    async def read() -> None:
        text.deliver(0, [Chosen(0, -1.0)], "a", None)
        async for message in messages:
            said.extend(message.token_ids)
            if message.index == 2:
                leaving.leave()
            if len(said) < 50:  # more comes while each message is sent
                text.deliver(len(said), [Chosen(len(said), -1.0)], "a", None)

    with pytest.raises(Draining):
        await asyncio.wait_for(read(), 10)
    assert said == [0, 1, 2, 3]
    assert scheduler.gone == [text]


async def test_a_failure_right_behind_a_piece_is_told_after_it() -> None:
    woken = asyncio.Event()
    text = written(woken)
    writer: Any = SimpleNamespace(scheduler=Accepting())
    said: list[int] = []

    async def read() -> None:
        async for message in Answers(writer, Texts([text], [1], woken), "model:1", None).messages(Leaving()):
            said.extend(message.token_ids)

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    text.deliver(0, [Chosen(5, -1.0)], "a", None)
    text.fail(NotReady("the engine has failed"))
    with pytest.raises(NotReady):
        await asyncio.wait_for(reading, 5)
    assert said == [5]
