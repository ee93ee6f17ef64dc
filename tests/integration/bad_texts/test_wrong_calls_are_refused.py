"""Bytes that are no message, models that cannot do it, and texts that cannot be scored, read or classified."""

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest

from tests.hostile import details
from tests.integration.bad_texts.places import VOCAB, Place, Refusal, invalid, refused, too_large
from tests.texts import CLASSIFY, DETOKENIZE, EMBED, GENERATE, SCORE, TOKENIZE, rest
from trivium.language.v1 import language_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="package")
BAD_UTF8 = b"\x12\x02\xff\xfe"  # field 2, two bytes


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (GENERATE, BAD_UTF8),
        (GENERATE, b"\x62\x01\xc3"),  # a stop string that is cut in a character
        (GENERATE, b"\x0a\x01\x80\x12\x01a"),  # a name
        (GENERATE, b"\xff\xff\xff rubbish"),
        (SCORE, BAD_UTF8),
        (CLASSIFY, BAD_UTF8),
        (EMBED, BAD_UTF8),
        (TOKENIZE, BAD_UTF8),
        (DETOKENIZE, b"\x0a\x01\xff"),
    ],
)
async def test_bytes_that_are_no_text_are_no_message(place: Place, path: str, data: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (rest(place.caller.call(data)) if path == GENERATE else place.caller.unary(path, data))
    code, info, _ = details(caught.value)
    assert (code, info.reason, info.domain) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST", "trivium")
    assert info.metadata["executed"] == "no"
    await place.neighbours_are_well()


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("nope", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("gpt:9", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("scripts", "UNIMPLEMENTED", "UNSUPPORTED_BY_MODEL"),
    ],
)
async def test_a_model_that_does_not_write_is_refused(place: Place, name: str, code: str, reason: str) -> None:
    calls = [
        rest(place.caller.call(pb.GenerateRequest(model=name, prompt="a"))),
        place.caller.score(model=name, text="ab"),
        place.caller.tokenize("a", model=name),
        place.caller.detokenize([1], model=name),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        found, info, _ = details(caught.value)
        assert (found, info.reason, info.metadata["executed"]) == (code, reason, "no")
        assert info.metadata["model"] == name.partition(":")[0]


async def test_a_model_that_writes_has_neither_classes_nor_vectors(place: Place) -> None:
    for name in ("gpt", "translate"):
        for call in (place.caller.classify(model=name, text="a"), place.caller.embed(model=name, text="a")):
            assert await refused(call) == Refusal("UNIMPLEMENTED", "UNSUPPORTED_BY_MODEL", "")


async def test_what_cannot_be_scored_read_or_classified_is_refused(place: Place) -> None:
    caller = place.caller
    refusals: list[tuple[Awaitable[Any], Refusal]] = [
        (caller.score(model="recite", text="a"), invalid("text")),  # one token, with nothing before it
        (caller.score(text=""), invalid("text")),
        (caller.score(text="a", text_token_ids=[1]), invalid("text")),
        (caller.score(context="a", context_token_ids=[1], text="a"), invalid("context")),
        (caller.score(text_token_ids=[VOCAB]), invalid("text_token_ids[0]")),
        (caller.score(context="a" * 200, text="a" * 56), too_large("text")),
        (caller.score(text="a" * 100_000), too_large("text")),
        (caller.tokenize("a" * 100_000), too_large("text")),
        (caller.detokenize([1, 2, VOCAB]), invalid("token_ids[2]")),
        (caller.classify(model="scripts", text=""), invalid("text")),
        (caller.classify(model="scripts", text=" \n\t"), invalid("text")),
        (caller.classify(model="scripts", text="a" * 301), too_large("text")),
        (caller.classify(model="scripts", text="a", top_k=0), invalid("top_k")),
        (caller.classify(model="scripts", text="a", top_k=101), invalid("top_k")),
        (caller.embed(model="scripts", text=""), invalid("text")),
        (caller.embed(model="scripts", text="a" * 301), too_large("text")),
    ]
    for call, expected in refusals:
        assert await refused(call) == expected
    assert len((await caller.score(context="a" * 200, text="a" * 55)).tokens) == 55
    assert len(await caller.embed(model="scripts", text="a" * 300)) == 3
    await place.neighbours_are_well()
