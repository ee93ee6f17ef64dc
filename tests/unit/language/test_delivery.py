"""What was made of a text reaches its caller, whatever becomes of the others."""

import asyncio

import pytest

from services.kit.deadline import Deadline
from services.kit.errors import TriviumError
from services.language.lookup import PromptLookup
from services.language.sampling import Sampling
from services.language.sequence import Sequence
from tests.unit.language.fakes import FakeRuns, FakeTokenizer, written
from tests.unit.language.scheduling import Counted, scheduler, text, tokens

PROMPT = [1, 2]
BAD = written(PROMPT, 6)


class Failing(FakeTokenizer):
    """Has no text for one token."""

    def __init__(self, token: int) -> None:
        self._token = token

    def decode(self, tokens: list[int], *, keep_special_tokens: bool = False) -> str:
        if self._token in tokens:
            raise TriviumError("no text")
        return super().decode(tokens)


def untold(at: int, stop: tuple[str, ...]) -> Sequence:
    """A text whose token at that place has no text."""
    return Sequence(
        PROMPT,
        Sampling(stop=stop),
        Failing(BAD[at]),  # type: ignore[arg-type]
        limit=len(BAD),
        end=frozenset(),
        deadline=Deadline(),
        woken=asyncio.Event(),
    )


async def read(sequence: Sequence, told: list[int]) -> None:
    """Its tokens, until it fails."""
    while True:
        sequence.woken.clear()
        if (piece := sequence.next()) is None:
            await sequence.woken.wait()
            continue
        assert piece.tokens
        told += [chosen.token for chosen in piece.tokens]


@pytest.mark.parametrize("stop", [(), ("no such text",)])
@pytest.mark.parametrize("at", [0, 3, len(BAD) - 1])
async def test_tokens_that_have_no_text_end_their_own_text_and_no_other(at: int, stop: tuple[str, ...]) -> None:
    assert len(set(BAD)) == len(BAD)
    bad, others = untold(at, stop), [text([3], 6), text([4], 12)]
    async with scheduler(FakeRuns(), counted := Counted()) as made, asyncio.timeout(10):
        made.submit([others[0], bad, others[1]])
        reading = asyncio.gather(*map(tokens, others))
        told: list[int] = []
        with pytest.raises(TriviumError, match="no text"):
            await read(bad, told)
        made.leave(bad)  # as whoever reads it does at the end
        assert await reading == [written([3], 6), written([4], 12)]
    assert told == BAD[:at]
    assert (made.statistics.success.count, made.statistics.fail.count) == (2, 1)
    ends = [counted.value("texts_total", reason=reason) for reason in ("length", "cancelled", "failed", "stop")]
    assert ends[0] == 2
    assert sum(ends[1:3]) == 1  # by whether its caller left before its last token was made
    assert (ends[3], counted.failed_runs) == (0, 0)


@pytest.mark.parametrize("stop", [(), ("no such text",)])
@pytest.mark.parametrize("at", [2, 4])
async def test_tokens_that_were_drafted_and_have_no_text_are_told_of(
    at: int, stop: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PromptLookup, "draft", lambda lookup, most, sure: written(lookup._tokens, most))
    monkeypatch.setattr(PromptLookup, "due", lambda lookup, sure: 1)
    bad, told = untold(at, stop), list[int]()
    async with scheduler(runs := FakeRuns(), speculative=8) as made, asyncio.timeout(10):
        made.submit([bad])
        with pytest.raises(TriviumError, match="no text"):
            await read(bad, told)
    assert told == BAD[:at]
    assert [steps for _, _, steps in runs.runs] == [2, len(BAD) - 1]


async def test_a_text_that_goes_on_from_tokens_without_text_is_refused() -> None:
    for stop in ((), ("no such text",)):
        with pytest.raises(TriviumError, match="no text"):
            untold(2, stop).replay(BAD)
