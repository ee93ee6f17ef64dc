"""Writer: what is refused before it costs anything, and what does not hold up the event loop."""

import asyncio
import dataclasses
import threading
import time
from typing import Any

import pytest
from google.protobuf.message import Message

from services.kit.deadline import Deadline
from services.kit.errors import InputTooLarge, InvalidField
from services.kit.inference.manifest import Generation
from services.language.tokenizer import Tokenizer
from services.language.writer import Writer
from tests.language_bundles import tokenizer
from tests.unit.language.fakes import VOCAB, FakeTokenizer, written
from trivium.language.v1 import language_pb2 as pb

MOST = 128
GENERATION = Generation(
    vocab=VOCAB, layers=1, heads=1, kv_heads=1, head_dim=1, max_tokens=MOST, begin=(), end=(96,), tokenizer="t.json"
)
UNKNOWN = VOCAB + 1


class Counting(FakeTokenizer):
    """Knows in which threads texts were read."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def decode(self, tokens: list[int], *, keep_special_tokens: bool = False) -> str:
        self.threads.add(threading.get_ident())
        return super().decode(tokens)


def writer(of: Any = None) -> Writer:
    return Writer(GENERATION, of or FakeTokenizer(), None, 64)  # type: ignore[arg-type]


async def texts(request: pb.GenerateRequest, of: Any = None) -> list[list[int]]:
    made = await writer(of).texts(request, Deadline(), lambda: 7)
    return [sequence.made for sequence in made.sequences]


async def test_a_text_is_scored_after_nothing_but_not_without_the_source_that_it_translates() -> None:
    assert await scored(pb.ScoreRequest(text="abc")) == [66, 67]
    translator = writer()
    translator.generation = dataclasses.replace(GENERATION, max_source=9, source_end=(95,), begin=(94,))
    with pytest.raises(InvalidField, match="context is empty"):
        await translator.scored(pb.ScoreRequest(text="abc"), Deadline())


async def scored(request: Any) -> list[int]:
    return (await writer().scored(request, Deadline())).scored


def too_many() -> list[int]:
    """More than the model takes, of tokens that it does not have: which of the two is said, is what was looked at."""
    return [UNKNOWN] * (MOST + 1)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateRequest(prompt_token_ids=too_many()), "prompt_token_ids"),
        (
            pb.GenerateRequest(prompt="a", continue_from=pb.ContinueFrom(generated_token_ids=too_many())),
            "continue_from.generated_token_ids",
        ),
        (
            pb.GenerateRequest(prompt="a", n=2, continue_from=pb.ContinueFrom(further=[pb.TokenIds(ids=too_many())])),
            "continue_from.further[0].ids",
        ),
        (pb.ScoreRequest(context_token_ids=too_many(), text="a"), "context_token_ids"),
        (pb.ScoreRequest(context="a", text_token_ids=too_many()), "text_token_ids"),
    ],
)
async def test_so_many_tokens_are_refused_before_each_of_them_is_looked_at(request_: Message, field: str) -> None:
    looked_at: Any = texts(request_) if isinstance(request_, pb.GenerateRequest) else scored(request_)
    with pytest.raises(InputTooLarge) as caught:
        await looked_at
    assert caught.value.metadata["field"] == field


async def test_more_further_texts_than_asked_for_are_refused_by_their_number() -> None:
    given = pb.ContinueFrom(further=[pb.TokenIds(ids=[UNKNOWN])] * 3)
    with pytest.raises(InvalidField) as caught:
        await texts(pb.GenerateRequest(prompt="a", n=3, continue_from=given))
    assert caught.value.metadata["field"] == "continue_from.further"


def test_tokens_to_read_are_as_many_as_the_model_takes() -> None:
    assert len(writer().text([1] * MOST, keep_special_tokens=False)) == MOST
    with pytest.raises(InputTooLarge):
        writer().text(too_many(), keep_special_tokens=False)
    with pytest.raises(InvalidField):
        writer().text([UNKNOWN], keep_special_tokens=False)


async def test_a_long_text_that_goes_on_is_taken_in_beside_the_event_loop() -> None:
    made, reads = [token for token in written([1, 2, 3], 99) if token != 96][:90], Counting()
    request = pb.GenerateRequest(prompt_token_ids=[1, 2, 3], max_new_tokens=100)
    request.continue_from.generated_token_ids.extend(made)
    assert await texts(request, reads) == [made]
    assert threading.get_ident() not in reads.threads


async def test_other_threads_run_while_a_text_is_cut_into_tokens(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    characters = tokenizer()
    characters.save(str(path))
    found, long = Tokenizer(path, characters.get_vocab_size()), "the red in def " * 10_000

    async def held_up() -> float:
        """The longest pause of the event loop as a part of the time that it took."""
        cut = asyncio.create_task(asyncio.to_thread(found.encode, long))
        begun = last = time.monotonic()
        longest = 0.0
        while not cut.done():
            await asyncio.sleep(0)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest / (last - begun)

    assert min([await held_up() for _ in range(3)]) < 0.5
