"""Writer: a model that makes texts: requests to sequences, with everything that is checked before."""

import asyncio
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import TypeVar

from services.kit.deadline import Deadline
from services.kit.errors import InputTooLarge, InvalidField
from services.kit.inference.manifest import Generation
from services.language import wishes
from services.language.sampling import Sampling
from services.language.scheduler import Scheduler
from services.language.sequence import Sequence
from services.language.tokenizer import Token, Tokenizer
from trivium.language.v1 import language_pb2 as pb

QUICK = 4096  # characters that are cut into tokens without a thread
QUICK_REPLAY = 64  # tokens of a text to go on with that are taken in without a thread

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts that one request asks for."""

    sequences: list[Sequence]
    prompt: list[int]  # what the caller gave, with special tokens: the source, where there is an encoder
    woken: asyncio.Event  # set when one of them has something to say


class Writer:
    """One loaded model.

    Args:
        default_new_tokens: where a request does not say how many to make.
    """

    def __init__(
        self, generation: Generation, tokenizer: Tokenizer, scheduler: Scheduler, default_new_tokens: int
    ) -> None:
        self.generation, self.tokenizer, self.scheduler = generation, tokenizer, scheduler
        self._default_new_tokens = default_new_tokens
        self._end = frozenset(generation.end)

    async def texts(self, request: pb.GenerateRequest, deadline: Deadline, draw_seed: Callable[[], int]) -> Texts:
        """What the request asks for, with the tokens that it goes on from taken in.

        Raises:
            InvalidField: a field out of its range, or tokens that the model does not have.
            InputTooLarge: more tokens than the model takes.
        """
        generation = self.generation
        wishes.check(request, generation)
        given = await self._given(request.prompt, request.prompt_token_ids, "prompt")
        prompt, source = self._placed(given)
        limit = self._limit(request, len(prompt))
        if request.min_new_tokens > limit:
            raise InvalidField(
                f"min_new_tokens is {request.min_new_tokens} and at most {limit} tokens are made (max_new_tokens)",
                field="min_new_tokens",
                limit=str(limit),
                value=str(request.min_new_tokens),
            )
        seed = request.seed if request.HasField("seed") else draw_seed()
        woken = asyncio.Event()
        continued = [list(request.continue_from.generated_token_ids)] + [
            list(further.ids) for further in request.continue_from.further
        ]
        sequences = []
        for choice in range(request.n if request.HasField("n") else 1):
            sequence = Sequence(
                prompt,
                wishes.sampling_of(request, generation, seed, choice),
                self.tokenizer,
                limit=limit,
                end=self._end,
                deadline=deadline,
                source=source,
                woken=woken,
                priority=request.priority,
            )
            made = continued[choice] if choice < len(continued) else []
            if len(made) > limit:
                raise InputTooLarge(
                    f"continue_from has {len(made)} tokens and the text has {limit} (max_new_tokens)",
                    field="continue_from",
                    limit=str(limit),
                    value=str(len(made)),
                )
            if len(made) <= QUICK_REPLAY:
                sequence.replay(made)
            else:
                await asyncio.to_thread(sequence.replay, made)
            sequences.append(sequence)
        return Texts(sequences, prompt if source is None else source, woken)

    async def scored(self, request: pb.ScoreRequest, deadline: Deadline) -> Sequence:
        """The text of the request, whose tokens are looked at and not made.

        Raises:
            InvalidField, InputTooLarge: as of `texts`.
        """
        context, source = self._placed(
            await self._given(
                request.context, request.context_token_ids, "context", empty=not self.generation.max_source
            )
        )
        text = await self._given(request.text, request.text_token_ids, "text", special=False)
        tokens, field = context + text, "text_token_ids" if request.text_token_ids else "text"
        if len(tokens) > self.generation.max_tokens:
            raise _too_many(field, len(tokens), self.generation.max_tokens, "context and text together")
        scored = tokens[max(1, len(context)) :]
        if not scored:
            message = f"{field} is one token with nothing before it, which has no probability"
            raise InvalidField(message, field=field, limit="2", value="1")
        return Sequence(
            tokens[:-1],
            Sampling(alternatives=0),
            self.tokenizer,
            limit=0,
            end=frozenset(),
            deadline=deadline,
            source=source,
            woken=asyncio.Event(),
            scored=scored,
        )

    async def encode(self, text: str, field: str) -> list[int]:
        """The tokens of a text, without special ones.

        Raises:
            InputTooLarge: so long a text has more tokens than the model takes.
        """
        return await self._cut(text, field, self._most(field), self.tokenizer.encode)

    async def tokens(self, text: str) -> list[Token]:
        """The tokens of the field `text`, with what each of them is.

        Raises:
            InputTooLarge: more than the model takes anywhere.
        """
        found = await self._cut(text, "text", self._longest, self.tokenizer.tokens)
        _check_count("text", len(found), self._longest)
        return found

    def text(self, tokens: Tokens[int], *, keep_special_tokens: bool) -> str:
        """The text of the field `token_ids`.

        Raises:
            InvalidField, InputTooLarge: tokens that the model does not have, or more than it takes anywhere.
        """
        _check_count("token_ids", len(tokens), self._longest)
        wishes.check_tokens("token_ids", tokens, self.generation)
        return self.tokenizer.decode(list(tokens), keep_special_tokens=keep_special_tokens)

    def texts_of(self, tokens: Tokens[int], *, keep_special_tokens: bool) -> list[str]:
        """What each of the tokens is alone, which `text` has taken; any thread may ask."""
        return [self.tokenizer.decode([token], keep_special_tokens=keep_special_tokens) for token in tokens]

    async def _cut(self, text: str, field: str, most: int, cut: Callable[[str], Found]) -> Found:
        """What `cut` makes of a text."""
        fewest = -(-len(text) // self.tokenizer.longest)
        if fewest > most:
            raise _too_many(field, fewest, most, f"or more: {len(text)} characters")
        return cut(text) if len(text) <= QUICK else await asyncio.to_thread(cut, text)

    async def _given(
        self, text: str, tokens: Tokens[int], field: str, *, empty: bool = False, special: bool = True
    ) -> list[int]:
        """What the caller gave as text or as tokens; as text, with the special tokens that the model wants."""
        if text and tokens:
            raise InvalidField(
                f"{field} and {field}_token_ids are both given, and one of them is what the model gets", field=field
            )
        if tokens:
            _check_count(f"{field}_token_ids", len(tokens), self._most(field))  # before each of them is looked at
            wishes.check_tokens(f"{field}_token_ids", tokens, self.generation)
            return list(tokens)
        encoded = await self.encode(text, field)
        before, behind = self.special if special else ((), ())
        if not (before or encoded or empty):
            raise InvalidField(f"{field} is empty", field=field, limit="1", value="0")
        return [*before, *encoded, *behind]

    @property
    def special(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that the model wants before and behind those of a prompt."""
        generation = self.generation
        return ((), generation.source_end) if generation.max_source else (generation.begin, ())

    def _placed(self, given: list[int]) -> tuple[list[int], list[int] | None]:
        """What the decoder begins with, and what the encoder reads."""
        generation = self.generation
        if not generation.max_source:
            return given, None
        if len(given) > generation.max_source:
            raise _too_many("prompt", len(given), generation.max_source)
        if not given:
            raise InvalidField("the source text is empty", field="prompt", limit="1", value="0")
        return list(generation.begin), given

    def _limit(self, request: pb.GenerateRequest, prompt: int) -> int:
        """Tokens to make at most."""
        most = self.generation.max_tokens
        if prompt > most:
            raise _too_many("prompt", prompt, most)
        if not request.HasField("max_new_tokens"):
            return min(self._default_new_tokens, most - prompt)
        if prompt + request.max_new_tokens > most:
            after = "" if self.generation.max_source else f" after a prompt of {prompt} tokens"
            raise InputTooLarge(
                f"max_new_tokens is {request.max_new_tokens} and this model makes at most {most - prompt}{after}",
                field="max_new_tokens",
                limit=str(most - prompt),
                value=str(request.max_new_tokens),
            )
        return request.max_new_tokens

    @property
    def _longest(self) -> int:
        """Tokens of a text that the model reads or writes."""
        return max(self.generation.max_tokens, self.generation.max_source)

    def _most(self, field: str) -> int:
        reads_source = self.generation.max_source and field != "text"
        return self.generation.max_source if reads_source else self.generation.max_tokens


def _check_count(field: str, tokens: int, limit: int) -> None:
    if tokens > limit:
        raise _too_many(field, tokens, limit)


def _too_many(field: str, tokens: int, limit: int, what: str = "") -> InputTooLarge:
    more = f" ({what})" if what else ""
    return InputTooLarge(
        f"{field} has {tokens} tokens{more} and this model takes {limit}",
        field=field,
        limit=str(limit),
        value=str(tokens),
    )
