"""Texts: what one Generate call needs to go on at another instance, and what its caller has got."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from gateway.endpoint import Endpoint
from gateway.failures import found
from gateway.routes import Pin
from services.kit.wire import parsed
from trivium.language.v1 import language_pb2 as pb


@dataclass(slots=True)
class Text:
    """One text, as far as its caller has got it."""

    begun: bool = False  # its first message has come
    over: bool = False  # its finish reason has come
    echo: int = 0  # characters that came before its first token
    tokens: "array[int]" = field(default_factory=lambda: array("I"))  # those that its caller had before among them


class Texts:
    """The caller's request, the bundle that answers it, and the tokens of each text.

    An attempt is asked for what comes after the tokens that the caller has got. So its answers begin with the next one
    of each text; whatever comes twice is dropped. A message's text is a function of the tokens up to its last one,
    which is why a message is dropped whole or not at all.

    Args:
        data: the caller's request.
        draw: gives 64 random bits, where the request brings no seed.

    Raises:
        MalformedRequest: the request is none.
    """

    def __init__(self, data: bytes, draw: Callable[[], int]) -> None:
        self._request = parsed(pb.GenerateRequest, data)
        given = self._request.continue_from
        self._given = [array("I", ids) for ids in (given.generated_token_ids, *(more.ids for more in given.further))]
        # Without a seed there is no going on with tokens that were drawn: that is for the service to refuse.
        if not self._request.HasField("seed") and not (any(self._given) and self._request.temperature):
            self._request.seed = draw()
        self._texts: dict[int, Text] = {}  # those that have begun
        self._number = max(1, self._request.n)
        self.pin: Pin | None = None  # the bundle that has answered
        self.sent = 0  # tokens that the caller has got in this call

    @property
    def model(self) -> str:
        """As the caller names it."""
        return self._request.model

    @property
    def begun(self) -> bool:
        """Whether the caller has got anything."""
        return bool(self._texts)

    @property
    def complete(self) -> bool:
        """Whether the caller has got all of every text."""
        return len(self._texts) == self._number and all(text.over for text in self._texts.values())

    def request(self) -> bytes:
        """What the next attempt is asked for."""
        if not self._texts:
            return self._request.SerializeToString()
        request = pb.GenerateRequest()
        request.CopyFrom(self._request)
        request.continue_from.Clear()
        first, *further = (self._tokens(choice) for choice in range(max(*self._texts, len(self._given) - 1) + 1))
        request.continue_from.generated_token_ids.extend(first)
        for tokens in further:
            request.continue_from.further.add(ids=tokens)
        request.echo = request.echo and len(self._texts) < self._number
        if self.pin is not None:
            request.model = str(self.pin)
        return request.SerializeToString()

    def answered(self, data: bytes, endpoint: Endpoint) -> bytes | None:
        """The answer as the caller gets it; None if it has got it before.

        Raises:
            CallFailed: it is none, not the next one of its text, or another bundle's.
        """
        answer = _answer(data, endpoint)
        if answer.model and self.pin is not None and answer.model != str(self.pin):
            raise found(code_pb2.INTERNAL, f"{endpoint.id} answered with {answer.model} and was asked for {self.pin}")
        if answer.choice >= self._number:
            raise found(code_pb2.INTERNAL, f"{endpoint.id} answered text {answer.choice} of {self._number}")
        text = self._texts.get(answer.choice) or Text(tokens=self._tokens(answer.choice))
        if not _is_new(answer, text, endpoint):
            return None
        changed = self._strip(answer, text, endpoint)
        if changed and text.begun and not (answer.token_ids or answer.text or answer.finish_reason):
            return None
        self._took(answer, text, endpoint)
        return answer.SerializeToString() if changed else data

    def _tokens(self, choice: int) -> "array[int]":
        """Those of a text that its caller has."""
        if choice in self._texts:
            return self._texts[choice].tokens
        return array("I", self._given[choice]) if choice < len(self._given) else array("I")

    def _strip(self, answer: pb.GenerateResponse, text: Text, endpoint: Endpoint) -> bool:
        """Takes out of an answer what its caller has been told before. Returns whether there was anything."""
        strip_model, strip_seed = bool(answer.model) and self.begun, answer.HasField("seed") and text.begun
        strip_echo = answer.echoed > 0 and text.begun
        if strip_model:
            answer.ClearField("model")
        if strip_seed:
            answer.ClearField("seed")
        if strip_echo:
            if text.tokens:  # what of its text is the echo's, only the service knows
                raise found(code_pb2.INTERNAL, f"{endpoint.id} echoed the prompt of a text that goes on")
            answer.text = answer.text[text.echo :]
            del answer.token_ids[: answer.echoed]
            answer.ClearField("echoed")
        return strip_model or strip_seed or strip_echo

    def _took(self, answer: pb.GenerateResponse, text: Text, endpoint: Endpoint) -> None:
        """The answer goes to the caller."""
        made = answer.token_ids[answer.echoed :]
        if self.pin is None:
            self.pin = Pin.said(endpoint, answer.model)
        if not made:
            text.echo += len(answer.text)
        text.begun, text.over = True, answer.finish_reason != pb.FINISH_REASON_UNSPECIFIED
        text.tokens.extend(made)
        self._texts[answer.choice] = text
        self.sent += len(made)


def _is_new(answer: pb.GenerateResponse, text: Text, endpoint: Endpoint) -> bool:
    """Whether the answer brings more of the text than its caller has got.

    Raises:
        CallFailed: something is missing before it.
    """
    had, made = len(text.tokens), len(answer.token_ids) - answer.echoed
    ends = answer.index < had and answer.finish_reason and not made  # in the midst of tokens that the caller brought
    if answer.index == had or ends:
        return not text.over
    if answer.index + made <= had:
        return False
    where = f"token {answer.index} of text {answer.choice}"
    raise found(code_pb2.INTERNAL, f"{endpoint.id} answered {where} after {had} tokens")


def _answer(data: bytes, endpoint: Endpoint) -> pb.GenerateResponse:
    try:
        return pb.GenerateResponse.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        name = pb.GenerateResponse.DESCRIPTOR.full_name
        raise found(code_pb2.INTERNAL, f"an answer of {endpoint.id} is no {name}") from None
