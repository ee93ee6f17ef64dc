"""What the SDK's calls about texts return: frozen dataclasses, made from messages and trailing metadata."""

import math
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass

from trivium.client.results import Served, fields_of
from trivium.language.v1 import language_pb2 as pb

FINISH_REASONS = {pb.FINISH_REASON_UNSPECIFIED: "", pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have been."""

    token_id: int
    logprob: float  # natural logarithm of its probability


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How probable a token was, by the model's own logits before temperature and penalties."""

    token_id: int
    logprob: float  # natural logarithm of its probability
    alternatives: tuple[Alternative, ...]  # the most probable tokens in its place, best first


@dataclass(frozen=True, slots=True)
class Usage:
    """What a text cost."""

    prompt_tokens: int  # with special ones
    generated_tokens: int  # one that ended the text is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """Some more of a text that is being written."""

    text: str  # whole characters, and nothing of a possible stop string until it is decided; may be empty
    token_ids: tuple[int, ...]  # those made since the piece before; of an echoed prompt first its own
    logprobs: tuple[TokenLogprob, ...]  # of the tokens made, if they were asked for
    index: int  # number of the first token made in this piece, from 0
    choice: int  # which of the `n` texts, from 0
    echoed: int  # how many of `token_ids` are the prompt's
    finish_reason: str  # in the last piece "stop" or "length", before it ""
    stop_string: str  # the one that ended the text, if one did
    usage: Usage | None  # in the last piece
    seed: int | None  # of this text: the same request with it gives the same text
    model: str  # the bundle that answers, as "name:version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole text; its fields are those of TextPiece, together."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    echoed: int
    finish_reason: str  # "stop" or "length"
    stop_string: str
    usage: Usage
    seed: int | None
    model: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Served):
    """How probable a text is."""

    tokens: tuple[TokenLogprob, ...]  # those that have something before them, in order
    logprob: float  # their sum

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-probability of a token; NaN where there is none."""
        return math.exp(-self.logprob / len(self.tokens)) if self.tokens else math.nan


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text."""

    id: int
    piece: str  # what the vocabulary calls it
    begin: int  # where it begins in the text, in characters; 0 for a token that was added
    end: int  # where it ends, exclusive; equal to `begin` for a token that was added


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens(Served):
    """The tokens of a text."""

    token_ids: tuple[int, ...]
    tokens: tuple[Token, ...]  # the same, with what they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Served):
    """The text of tokens; bytes that are no whole character appear as U+FFFD."""

    text: str
    texts: tuple[str, ...] = ()  # what each token is alone, where that was asked for

    def __str__(self) -> str:
        return self.text


def pieces(messages: Generator[pb.GenerateResponse, None, None]) -> Generator[TextPiece, None, None]:
    """The pieces of one call; each of them has the model and the seed, which only first messages have."""
    model, seeds = "", dict[int, int]()
    with closing(messages):
        for message in messages:
            model = message.model or model
            if message.HasField("seed"):
                seeds[message.choice] = message.seed
            yield _piece(message, model, seeds.get(message.choice))


def completions(found: Iterable[TextPiece]) -> tuple[Completion, ...]:
    """The whole texts that the pieces of one call make, in order of `choice`."""
    texts: dict[int, list[TextPiece]] = {}
    for piece in found:
        texts.setdefault(piece.choice, []).append(piece)
    return tuple(_completion(texts[choice]) for choice in sorted(texts))


def score(message: pb.ScoreResponse, served: Served) -> Score:
    """How probable a text is."""
    return Score(tokens=_logprobs(message.tokens), logprob=message.logprob, **fields_of(served))


def tokens(message: pb.TokenizeResponse, served: Served) -> Tokens:
    """The tokens of a text."""
    found = tuple(Token(token.id, token.piece, token.begin, token.end) for token in message.tokens)
    return Tokens(token_ids=tuple(message.token_ids), tokens=found, **fields_of(served))


def text(message: pb.DetokenizeResponse, served: Served) -> Text:
    """The text of tokens."""
    return Text(text=message.text, texts=tuple(message.texts), **fields_of(served))


def _piece(message: pb.GenerateResponse, model: str, seed: int | None) -> TextPiece:
    usage = Usage(message.usage.prompt_tokens, message.usage.generated_tokens) if message.HasField("usage") else None
    return TextPiece(
        text=message.text,
        token_ids=tuple(message.token_ids),
        logprobs=_logprobs(message.logprobs),
        index=message.index,
        choice=message.choice,
        echoed=message.echoed,
        finish_reason=FINISH_REASONS.get(message.finish_reason, f"reason {message.finish_reason}"),
        stop_string=message.stop_string,
        usage=usage,
        seed=seed,
        model=model,
    )


def _completion(found: list[TextPiece]) -> Completion:
    last = found[-1]
    return Completion(
        text="".join(piece.text for piece in found),
        token_ids=tuple(token for piece in found for token in piece.token_ids),
        logprobs=tuple(logprob for piece in found for logprob in piece.logprobs),
        echoed=sum(piece.echoed for piece in found),
        finish_reason=last.finish_reason,
        stop_string=last.stop_string,
        usage=last.usage or Usage(0, 0),
        seed=last.seed,
        model=last.model,
    )


def _logprobs(found: Iterable[pb.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(one.token_id, one.logprob, _alternatives(one)) for one in found)


def _alternatives(one: pb.TokenLogprob) -> tuple[Alternative, ...]:
    return tuple(Alternative(other.token_id, other.logprob) for other in one.alternatives)
