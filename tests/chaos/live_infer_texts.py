"""Texts by ModelStreamInfer, several on each call, as LiveTexts keeps them going."""

import random
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.rpc import code_pb2, status_pb2

from inference import grpc_service_pb2 as oip
from services.kit.deadline import Deadline
from services.kit.transport.upstream import CallFailed, Upstream
from tests.chaos.live_texts import LETTERS
from tests.texts import STREAM_INFER, infer_request

FINAL = "triton_final_response"
Requests = Sequence[oip.ModelInferRequest]


@dataclass
class Inferred:
    """One text: all its answers put together. Equal texts are equal to the bit."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)  # none where they were not asked for
    said: dict[str, str] = field(default_factory=dict)
    over: bool = False

    def take(self, response: oip.ModelInferResponse) -> int:
        """One more answer; returns how many tokens it brought."""
        assert not self.over, "an answer after the last one of its text"
        raw = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))
        (length,) = struct.unpack_from("<I", raw["text_output"])
        self.text += raw["text_output"][4 : 4 + length].decode()
        ids = raw.get("token_ids", b"")
        self.tokens += struct.unpack(f"<{len(ids) // 8}q", ids)
        for name, value in response.parameters.items():
            if name != FINAL:
                assert name not in self.said, f"{name} was said twice"
                self.said[name] = value.string_param
        self.over = response.parameters[FINAL].bool_param
        return len(ids) // 8


def random_requests(rng: random.Random, longest: int) -> Requests:
    """One to four texts for one call."""
    return [_random_request(rng, longest, str(number)) for number in range(rng.randint(1, 4))]


def _random_request(rng: random.Random, longest: int, request_id: str) -> oip.ModelInferRequest:
    """Greedy or drawn, with penalties, stop strings and all outputs or without."""
    source = rng.random() < 0.2
    wishes: dict[str, Any] = {"seed": rng.getrandbits(62), "ignore_eos": rng.random() < 0.7}
    if rng.random() < 0.7:
        wishes |= {"temperature": rng.choice((0.5, 1.0, 1.5)), "top_p": rng.choice((0.8, 1.0))}
    if rng.random() < 0.5:
        wishes |= {"repetition_penalty": 1.1, "presence_penalty": rng.random(), "frequency_penalty": rng.random()}
    if rng.random() < 0.5:
        wishes |= {"stop": rng.choice(("th", "e", "ing", "🙂", "\n")), "min_new_tokens": rng.choice((0, 20))}
    prompt = "".join(rng.choices(LETTERS, k=rng.randint(1, 16)))
    count = 60 if source else rng.randint(longest // 4, longest)
    request = infer_request("translate" if source else "novel", prompt, count, **wishes)
    request.id = request_id
    if rng.random() < 0.3:
        request.outputs.add(name="text_output")
    return request


async def inferred(upstream: Upstream, requests: Requests, came: Callable[[int], Any] | None = None) -> list[Inferred]:
    """The texts of one call; `came` is told of the tokens of each answer, one where they were not asked for.

    Raises:
        CallFailed: the call has failed, or a text with the message that it got.
        AssertionError: its answers do not fit together.
    """

    async def sent() -> AsyncIterator[bytes]:
        for request in requests:
            yield request.SerializeToString()

    texts = {request.id: Inferred() for request in requests}
    failure = ""
    async for data in upstream.stream(STREAM_INFER, sent(), (), Deadline(), []):
        answer = oip.ModelStreamInferResponse.FromString(data)
        if answer.error_message:
            failure = answer.error_message
            continue
        tokens = texts[answer.infer_response.id].take(answer.infer_response)
        if came is not None:
            await came(tokens or 1)
    if failure:
        raise CallFailed(status_pb2.Status(code=code_pb2.UNKNOWN, message=failure), (), "unknown")
    assert all(text.over for text in texts.values()), "the call ended before its texts"
    return list(texts.values())
