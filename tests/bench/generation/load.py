"""Load: the texts that are asked for, the same for every engine, and callers that are always busy."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

SIZES = (8, 128)  # tokens of prompts and of answers: from, to
TEXTS, FEWEST = 4, 12  # texts for each caller, and in all


@dataclass(frozen=True, slots=True)
class Text:
    """One text to write."""

    prompt: list[int]
    new: int  # tokens to make


@dataclass(frozen=True, slots=True)
class Made:
    """What came of one measurement."""

    tokens: int  # made within the time that counts
    seconds: float
    texts: list[list[int]]  # tokens of each; none where an engine's tokens say nothing


Write = Callable[[Text], AsyncGenerator[list[int], None]]  # some more tokens of the text, as they come


def texts(callers: int, vocab: int, seed: int = 5) -> list[Text]:
    """What so many callers ask for; the last token of the vocabulary, which ends texts, is in no prompt."""
    source = random.Random(f"{seed} {callers}")
    return [
        Text([source.randrange(vocab - 1) for _ in range(source.randint(*SIZES))], source.randint(*SIZES))
        for _ in range(max(FEWEST, TEXTS * callers))
    ]


async def closed_loop(write: Write, wanted: list[Text], callers: int) -> Made:
    """Each caller asks for the next text as soon as it has its last one; after the last text comes the first.

    What counts is the time from when as many texts as there are callers have ended until `wanted` more have: all
    callers are busy all the time, and what is under way at the beginning is much like what is at the end.
    """
    loop = _Loop(write, wanted, callers)
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(loop.caller()) for _ in range(callers)]
    over: asyncio.Task[object] = asyncio.create_task(loop.over.wait())
    try:
        await asyncio.wait((over, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in (over, *tasks):
            task.cancel()
        await asyncio.gather(over, *tasks, return_exceptions=True)
    return Made(loop.tokens, loop.until - loop.since, [loop.made[number] for number in range(len(wanted))])


class _Loop:
    def __init__(self, write: Write, wanted: list[Text], callers: int) -> None:
        self._write, self._wanted, self._before = write, wanted, callers
        self._begun = self._ended = self.tokens = 0
        self.since = self.until = 0.0
        self.made: dict[int, list[int]] = {}
        self.over = asyncio.Event()

    async def caller(self) -> None:
        while True:
            number = self._begun % len(self._wanted)
            self._begun += 1
            made: list[int] = []
            async for tokens in self._write(self._wanted[number]):
                made += tokens
                if self.since and not self.until:
                    self.tokens += len(tokens)
            self.made[number] = made
            self._end()

    def _end(self) -> None:
        self._ended += 1
        if self._ended == self._before:
            self.since = time.perf_counter()
        elif self._ended == self._before + len(self._wanted):
            self.until = time.perf_counter()
            self.over.set()
