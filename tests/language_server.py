"""LanguageServer: a gRPC server whose texts tests can tell beforehand."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from trivium.client.errors import DETAILS_KEY
from trivium.common.v1 import classes_pb2
from trivium.language.v1 import language_pb2 as pb

SERVICE = "trivium.language.v1.LanguageService"
SEED = 7  # where none was given; the texts of one call have it, the first bit of their number changed
MOST = 64  # tokens, where the caller does not say
LEAVES = "leave"  # the prompt in the middle of whose text the last instance is lost
WAITS = "wait"  # the prompt whose text stops coming after its second piece


class LanguageServer:
    """Tokens are code points, and a text is what is made of the letters that follow its prompt's last one: "ab" goes
    on with "cdef...", choice 1 of it with the same in capitals. "upper" answers with the prompt in capitals."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.remaining_s: list[float] = []  # of the deadlines of Generate
        self.left = threading.Event()  # a text has ended, or its reader has left
        self.sent = 0  # pieces of the last text
        self._server = grpc.server(ThreadPoolExecutor(4))
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers: dict[str, Any] = {
            "Generate": stream(self._generate, pb.GenerateRequest.FromString, _bytes),
            "Score": unary(self._score, pb.ScoreRequest.FromString, _bytes),
            "Classify": unary(self._classify, pb.ClassifyRequest.FromString, _bytes),
            "Embed": unary(self._embed, pb.EmbedRequest.FromString, _bytes),
            "Tokenize": unary(self._tokenize, pb.TokenizeRequest.FromString, _bytes),
            "Detokenize": unary(self._detokenize, pb.DetokenizeRequest.FromString, _bytes),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        """Ends it and every call."""
        self.left.set()
        self._server.stop(0).wait()

    def _generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        context.add_callback(self.left.set)
        self.requests.append(request)
        self.remaining_s.append(context.time_remaining())
        prompt = request.prompt or "".join(map(chr, request.prompt_token_ids))
        if not prompt:
            _refuse(context, code_pb2.INVALID_ARGUMENT, "prompt is empty", "INVALID_FIELD")
        texts = [list(_pieces(request, prompt, choice)) for choice in range(request.n or 1)]
        self.sent = 0
        for number in range(max(map(len, texts))):
            for text in texts:  # the texts of one call come side by side
                if number < len(text):
                    yield text[number]
                    self.sent += 1
            if prompt == LEAVES and number == 1:
                _refuse(context, code_pb2.UNAVAILABLE, "no instance goes on", "NO_INSTANCE", token="2")
            if prompt == WAITS and number == 1:
                self.left.wait()
                return

    def _score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> pb.ScoreResponse:
        self._answer(request, context)
        ids = [*request.text_token_ids] or [ord(letter) for letter in request.text]
        scored = ids if request.context or request.context_token_ids else ids[1:]
        tokens = [pb.TokenLogprob(token_id=token, logprob=-0.5) for token in scored]
        return pb.ScoreResponse(tokens=tokens, logprob=-0.5 * len(tokens))

    def _classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        self._answer(request, context)
        if not request.text:
            _refuse(context, code_pb2.INVALID_ARGUMENT, "text is empty", "INVALID_FIELD")
        kinds = ("lower", "upper") if request.text.islower() else ("upper", "lower")
        ranked = [
            classes_pb2.RankedClass(label=kind, index=int(kind == "upper"), probability=probability)
            for kind, probability in zip(kinds, (0.75, 0.25), strict=True)
        ]
        return pb.ClassifyResponse(classes=ranked[: request.top_k or 5])

    def _embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:
        self._answer(request, context)
        return pb.EmbedResponse(embedding=[len(request.text), 0.5])

    def _tokenize(self, request: pb.TokenizeRequest, context: grpc.ServicerContext) -> pb.TokenizeResponse:
        self._answer(request, context)
        tokens = [
            pb.Token(id=ord(letter), piece=letter, begin=place, end=place + 1)
            for place, letter in enumerate(request.text)
        ]
        if request.add_special_tokens:
            tokens.insert(0, pb.Token(id=1, piece="<s>"))
        return pb.TokenizeResponse(token_ids=[token.id for token in tokens], tokens=tokens)

    def _detokenize(self, request: pb.DetokenizeRequest, context: grpc.ServicerContext) -> pb.DetokenizeResponse:
        self._answer(request, context)
        texts = [chr(token) for token in request.token_ids]
        return pb.DetokenizeResponse(text="".join(texts), texts=texts if request.each else ())

    def _answer(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        context.set_trailing_metadata((("trivium-model", request.model or "letters"), ("trivium-version", "1")))


def _pieces(request: pb.GenerateRequest, prompt: str, choice: int) -> Iterator[pb.GenerateResponse]:
    """The messages of one text, one token each, as its first and last one have to be."""
    most = request.max_new_tokens if request.HasField("max_new_tokens") else MOST
    whole = _written(request.model, prompt, choice)[:most]
    ends = {whole.index(stop): stop for stop in request.stop if stop in whole}
    size = min(ends) + len(ends[min(ends)]) if ends else len(whole)
    held = min(ends, default=size)  # from here on, all of it is the stop string
    before = len(request.continue_from.generated_token_ids)
    first = True
    for index in range(before, size):
        message = pb.GenerateResponse(choice=choice, index=index, token_ids=[ord(whole[index])])
        message.text = whole[index] if index < held else ""
        if request.HasField("logprobs"):
            message.logprobs.append(_logprob(whole[index], request.logprobs))
        if first:
            _begin(message, request, prompt, choice)
        if index == size - 1:
            _end(message, prompt, size, ends[held] if ends else "", size == most)
        first = False
        yield message
    if first:
        message = pb.GenerateResponse(choice=choice, index=size)
        _begin(message, request, prompt, choice)
        _end(message, prompt, size, "", size == most)
        yield message


def _written(model: str, prompt: str, choice: int) -> str:
    if model == "upper":
        return prompt.upper()
    text = "".join(chr(ord("a") + (ord(prompt[-1]) - ord("a") + number) % 26) for number in range(1, 1 + MOST))
    return text.upper() if choice else text


def _begin(message: pb.GenerateResponse, request: pb.GenerateRequest, prompt: str, choice: int) -> None:
    message.seed = (request.seed if request.HasField("seed") else SEED) ^ choice
    message.model = "" if choice else f"{request.model or 'letters'}:1"
    if request.echo:
        message.echoed = len(prompt)
        message.token_ids[:] = [*map(ord, prompt), *message.token_ids]
        message.text = prompt + message.text


def _end(message: pb.GenerateResponse, prompt: str, size: int, stop: str, full: bool) -> None:
    message.finish_reason = pb.FINISH_REASON_STOP if stop or not full else pb.FINISH_REASON_LENGTH
    message.stop_string = stop
    message.usage.CopyFrom(pb.Usage(prompt_tokens=len(prompt), generated_tokens=size))


def _logprob(letter: str, alternatives: int) -> pb.TokenLogprob:
    others = [pb.Alternative(token_id=ord(letter) + place, logprob=-0.25 - place) for place in range(alternatives)]
    return pb.TokenLogprob(token_id=ord(letter), logprob=-0.25, alternatives=others)


def _refuse(context: grpc.ServicerContext, code: int, message: str, reason: str, **metadata: str) -> None:
    status = status_pb2.Status(code=code, message=message)
    status.details.add().Pack(ErrorInfo(reason=reason, domain="trivium", metadata=metadata))
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.abort(next(found for found in grpc.StatusCode if found.value[0] == code), message)


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())
