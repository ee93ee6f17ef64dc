"""Callers of the language service, and their answers put together."""

import math
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from inference import grpc_service_pb2 as oip
from trivium.language.v1 import language_pb2 as pb

SERVICE = "/trivium.language.v1.LanguageService"
GENERATE, SCORE, CLASSIFY, EMBED = f"{SERVICE}/Generate", f"{SERVICE}/Score", f"{SERVICE}/Classify", f"{SERVICE}/Embed"
TOKENIZE, DETOKENIZE = f"{SERVICE}/Tokenize", f"{SERVICE}/Detokenize"
INFER, STREAM_INFER = "/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer"
TIMEOUT_S = 60  # of a call: longer ones hang
STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH


@dataclass
class Written:
    """One text of a call: all its messages put together. Equal texts are equal to the bit."""

    tokens: list[int] = field(default_factory=list)  # made
    text: str = ""
    logprobs: list[tuple[Any, ...]] = field(default_factory=list)  # of each token: itself and its alternatives
    finish: int = 0
    stop_string: str = ""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seed: int | None = None
    echoed: list[int] = field(default_factory=list)
    # After each message: tokens made, and characters, so far.
    seams: list[tuple[int, int]] = field(default_factory=list, compare=False)

    def take(self, message: pb.GenerateResponse, *, first: bool, begins_at: int) -> None:
        """One more message of it.

        Args:
            begins_at: number of the first token that is due, of those made.
        """
        assert not self.finish, "a message after the last one of its text"
        assert message.HasField("seed") == first
        assert message.index == begins_at + len(self.tokens), f"token {message.index} where {len(self.tokens)} was due"
        if first:
            self.seed, self.echoed = message.seed, list(message.token_ids[: message.echoed])
        else:
            assert message.echoed == 0
        made = list(message.token_ids[message.echoed :])
        self.tokens += made
        self.text += message.text
        if message.logprobs:
            assert [one.token_id for one in message.logprobs] == made
        self.logprobs += map(bits, message.logprobs)
        self.finish, self.stop_string = message.finish_reason, message.stop_string
        assert message.HasField("usage") == bool(self.finish)
        self.prompt_tokens, self.generated_tokens = message.usage.prompt_tokens, message.usage.generated_tokens
        self.seams.append((len(self.tokens), len(self.text)))

    def since(self, seam: tuple[int, int]) -> "Written":
        """What comes after one of its messages, as a call that goes on from there has to give it."""
        tokens, characters = seam
        rest = {"tokens": self.tokens[tokens:], "text": self.text[characters:], "logprobs": self.logprobs[tokens:]}
        return Written(**{**vars(self), **rest, "echoed": []})


def bits(one: pb.TokenLogprob) -> tuple[Any, ...]:
    """A token and its alternatives with their log-probabilities, to the bit."""
    assert math.isfinite(one.logprob)
    assert one.logprob <= 0
    return (one.token_id, one.logprob, tuple((other.token_id, other.logprob) for other in one.alternatives))


def put_together(messages: Sequence[pb.GenerateResponse], count: int = 1, begin: Sequence[int] = ()) -> list[Written]:
    """The texts of a call, from all of its messages.

    Args:
        count: texts.
        begin: tokens that each of them had before the call.
    """
    texts = [Written() for _ in range(count)]
    begun = set[int]()
    for number, message in enumerate(messages):
        assert bool(message.model) == (number == 0)
        first = message.choice not in begun
        begun.add(message.choice)
        before = begin[message.choice] if message.choice < len(begin) else 0
        texts[message.choice].take(message, first=first, begins_at=before)
    assert all(text.finish for text in texts), "a text without an end"
    return texts


async def rest(call: Any) -> list[pb.GenerateResponse]:
    """All further messages of a Generate that has been read from before. Raises AioRpcError where it fails."""
    messages = []
    while (data := await call.read()) is not grpc.aio.EOF:
        messages.append(pb.GenerateResponse.FromString(data))
    return messages


async def failure(call: Any) -> tuple[int, grpc.aio.AioRpcError]:
    """How many tokens such a call still brings, and the error that it ends with."""
    tokens = 0
    try:
        while (data := await call.read()) is not grpc.aio.EOF:
            message = pb.GenerateResponse.FromString(data)
            tokens += len(message.token_ids) - message.echoed
    except grpc.aio.AioRpcError as error:
        return tokens, error
    raise AssertionError("the call has ended well")


class Caller:
    """Asks an instance or a gateway, with one connection."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def unary(self, path: str, request: Any) -> bytes:
        """The answer's bytes."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        method: Any = self.channel.unary_unary(path)
        answer: bytes = await method(data, timeout=TIMEOUT_S)
        return answer

    def call(self, request: pb.GenerateRequest | bytes, timeout_s: float = TIMEOUT_S) -> Any:
        """A Generate that has just begun; its messages are bytes."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        method: Any = self.channel.unary_stream(GENERATE)
        return method(data, timeout=timeout_s)

    async def messages(self, request: pb.GenerateRequest | bytes) -> AsyncIterator[pb.GenerateResponse]:
        """Each answer to a Generate."""
        call = self.call(request)
        try:
            async for data in call:
                yield pb.GenerateResponse.FromString(data)
        finally:
            call.cancel()

    async def texts(self, **fields: Any) -> list[Written]:
        """All texts of a Generate."""
        request = pb.GenerateRequest(**fields)
        given = request.continue_from
        before = [len(given.generated_token_ids), *(len(further.ids) for further in given.further)]
        messages = [message async for message in self.messages(request)]
        return put_together(messages, request.n or 1, before)

    async def text(self, **fields: Any) -> Written:
        """The one text of a Generate."""
        (text,) = await self.texts(**fields)
        return text

    async def score(self, **fields: Any) -> pb.ScoreResponse:
        """How probable a text is."""
        return pb.ScoreResponse.FromString(await self.unary(SCORE, pb.ScoreRequest(**fields)))

    async def tokenize(self, text: str, **fields: Any) -> pb.TokenizeResponse:
        """The tokens of a text."""
        return pb.TokenizeResponse.FromString(await self.unary(TOKENIZE, pb.TokenizeRequest(text=text, **fields)))

    async def detokenize(self, tokens: Sequence[int], **fields: Any) -> str:
        """The text of tokens."""
        request = pb.DetokenizeRequest(token_ids=tokens, **fields)
        return pb.DetokenizeResponse.FromString(await self.unary(DETOKENIZE, request)).text

    async def each_detokenized(self, tokens: Sequence[int], **fields: Any) -> list[str]:
        """The text of each token alone."""
        request = pb.DetokenizeRequest(token_ids=tokens, each=True, **fields)
        return list(pb.DetokenizeResponse.FromString(await self.unary(DETOKENIZE, request)).texts)

    async def classify(self, **fields: Any) -> pb.ClassifyResponse:
        """The classes of a text."""
        return pb.ClassifyResponse.FromString(await self.unary(CLASSIFY, pb.ClassifyRequest(**fields)))

    async def embed(self, **fields: Any) -> list[float]:
        """The vector of a text."""
        return list(pb.EmbedResponse.FromString(await self.unary(EMBED, pb.EmbedRequest(**fields))).embedding)

    async def infer(self, model: str, text: str, count: int, **parameters: Any) -> oip.ModelInferResponse:
        """The whole text by the Open Inference Protocol."""
        request = infer_request(model, text, count, **parameters)
        return oip.ModelInferResponse.FromString(await self.unary(INFER, request))


def infer_request(model: str, text: str, count: int, **parameters: Any) -> oip.ModelInferRequest:
    """A request of the Open Inference Protocol; a tuple is a field of a parameter and its value."""
    request = oip.ModelInferRequest(model_name=model)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(text.encode())
    request.inputs.add(name="max_tokens", datatype="INT32", shape=[1]).contents.int_contents.append(count)
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in parameters.items():
        chosen, value = value if isinstance(value, tuple) else (fields[type(value)], value)
        setattr(request.parameters[name], chosen, value)
    return request


def inferred(response: oip.ModelInferResponse) -> tuple[str, list[int]]:
    """The text and its tokens of an answer."""
    raw = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))
    (length,) = struct.unpack_from("<I", raw["text_output"])
    tokens = raw["token_ids"]
    return raw["text_output"][4 : 4 + length].decode(), list(struct.unpack(f"<{len(tokens) // 8}q", tokens))
