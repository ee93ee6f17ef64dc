"""Sequence: one text on its way through the scheduler, and the pieces that its caller gets."""

import asyncio
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import Literal

from services.kit.deadline import Deadline
from services.kit.errors import TriviumError
from services.language.lookup import EARLY, PromptLookup
from services.language.sampling import Adjustments, Sampling, uniform
from services.language.text import TextWriter
from services.language.tokenizer import Tokenizer

Finish = Literal["stop", "length"]


@dataclass(slots=True)
class Chosen:
    """One token with its log-probability and, best first, those of the others that could have been."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Piece:
    """What a text got since the last piece."""

    index: int  # of its first token among those made
    tokens: list[Chosen] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None


class Sequence:
    """One text. The event loop makes it and reads pieces; between, it belongs to the scheduler's thread.

    Its tokens become text in that thread where a stop string may end it, and otherwise in the event loop, behind it.

    Args:
        prompt: tokens before the text; with an encoder, what the target begins with.
        source: of a model with an encoder.
        limit: tokens to make at most.
        end: tokens with which the model ends a text.
        scored: tokens whose log-probabilities are wanted; such a sequence makes none. `prompt` has all of them but the
            last, after what stands before them.
        woken: set whenever there is something for the caller.
    """

    def __init__(
        self,
        prompt: list[int],
        sampling: Sampling,
        tokenizer: Tokenizer,
        *,
        limit: int,
        end: frozenset[int],
        deadline: Deadline,
        source: list[int] | None = None,
        woken: asyncio.Event,
        priority: int = 0,
        scored: list[int] | None = None,
    ) -> None:
        self.prompt, self.sampling, self.limit = prompt, sampling, limit
        self.source, self.scored = source, scored or []
        self.scored_from = None if scored is None else len(prompt) + 1 - len(scored)  # place of the first of them
        self.deadline, self.priority = deadline, priority
        self.made: list[int] = []
        self._given = 0  # of those, made by another process
        self.tokens = len(prompt)  # all so far
        self.longest = len(prompt) + limit  # tokens that the cache must have room for at the end
        self.finish: Finish | None = None
        self.error: TriviumError | None = None
        self.left = False  # nobody waits for it any more; set by the event loop
        self.cached = 0  # tokens whose keys and values are in the cache
        self.encoded = source is None  # or the source has been read
        self.overflowed = False  # something of it was no number any more, which float16 may come to
        self.submitted = self.started = self.first_token = 0.0  # instants on the clock of time.monotonic
        self.compute_s = 0.0  # of the runs that it shared
        self.largest_batch = 0  # rows in one of them
        self.end = (frozenset() if sampling.ignore_eos else end) | sampling.stop_token_ids
        self._writer = TextWriter(tokenizer, sampling.stop)
        self._unwritten: TriviumError | None = None  # why its text could not be made, where that was found in a run
        forbidden = (end if not sampling.ignore_eos else frozenset()) | sampling.stop_token_ids
        adjusts = sampling.penalizes or sampling.logit_bias or sampling.min_new_tokens
        self.adjustments = Adjustments(sampling, prompt, forbidden) if adjusts else None
        # Whether each token is made as the most probable one, as it is, and nothing is told of the others.
        self.plain = sampling.greedy and not sampling.alternatives and not adjusts and scored is None
        self.lookup = PromptLookup()
        self._pending: Piece | None = None  # not yet taken by the reader
        self.woken = woken

    @property
    def to_read(self) -> int:
        """Tokens that are known and not in the cache: one while it writes, more while it reads its prompt."""
        return self.tokens - self.cached

    @property
    def stop_string(self) -> str:
        """The stop string that ended it; "" if none did."""
        return self._writer.stopped_by or ""

    @property
    def newest(self) -> int:
        """The last token so far."""
        return self.made[-1] if self.made else self.prompt[-1]

    @property
    def steps(self) -> int:
        """Tokens that may be drawn one after the other, each from the one before alone, until one of them ends it."""
        first = len(self.made) == self._given  # nobody waits longer for it than for the run that draws it
        one_by_one = first or self.adjustments is not None or self.sampling.stop
        return 1 if one_by_one else self.limit - len(self.made)

    def tokens_from(self, position: int, count: int) -> list[int]:
        """So many tokens from a place of prompt and text on."""
        before = len(self.prompt)
        made = self.made[max(0, position - before) : max(0, position + count - before)]
        return [*self.prompt[position : position + count], *made]

    def draw(self, ahead: int = 0) -> float:
        """The draw for the next token, or for one `ahead` tokens behind it."""
        return 0.0 if self.sampling.greedy else uniform(self.sampling.seed, self.tokens + ahead)

    def draft(self, most: int, sure: float) -> list[int]:
        """At most so many tokens that may come next, and at least one of its own behind them.

        None while what is drawn depends on the tokens before in other ways than through the model.

        Args:
            sure: the part of the last guesses that must have been right.
        """
        most = min(most, self.limit - len(self.made) - 1)
        if most < 1 or not self.made or self.adjustments is not None or self.until_draft(sure) > EARLY:
            return []
        known = self.lookup.known
        self.lookup.add(self.tokens_from(known, self.tokens - known))
        return self.lookup.draft(most, sure)

    def until_draft(self, sure: float) -> int:
        """How many more tokens it needs before it is worth to ask for a draft; less than 1: it is now."""
        return self.lookup.due(sure) - (self.tokens - self.lookup.known)

    def replay(self, given: list[int]) -> None:
        """Takes the tokens that another process made; nothing of them is said again."""
        for token in given:
            if self.finish is not None:
                return
            if self.take((token,)) is None:
                self._write(token, self.finish)
            self._given += 1

    def take(self, tokens: Tokens[int]) -> str | None:
        """Further tokens of the text, at most `steps`: what they add to it. Sets `finish` where the last one ends it.

        Without stop strings the text decides nothing: it is None here, and made when the tokens are delivered. Where it
        cannot be made, this is the last token too, and whoever delivers it learns of it.
        """
        assert len(tokens) == 1 or (self.adjustments is None and not self.sampling.stop)
        self.made += tokens
        self.tokens += len(tokens)
        token = tokens[-1]
        if self.adjustments is not None:
            self.adjustments.made(token)
        may_stop = len(self.made) >= self.sampling.min_new_tokens
        ends = token in self.end and may_stop
        if ends:
            self.finish = "stop"
        elif len(self.made) >= self.limit:
            self.finish = "length"
        if not self.sampling.stop:
            return None
        try:
            return self._with_stops(token, ends=ends, may_stop=may_stop)
        except TriviumError as error:
            self._unwritten, self.finish = error, "stop"
            return None

    def _with_stops(self, token: int, *, ends: bool, may_stop: bool) -> str:
        text = "" if ends else self._writer.push(token, may_stop=may_stop)
        if self._writer.stopped_by is not None:
            self.finish = "stop"
        if self.finish is not None:
            text += self._writer.rest(may_stop=may_stop)
            if self._writer.stopped_by is not None:  # found in what was left of the last character
                self.finish = "stop"
        return text

    def _write(self, token: int, finish: Finish | None) -> str:
        """What a token adds to a text without stop strings."""
        if self._unwritten is not None:
            raise self._unwritten
        text = "" if finish == "stop" else self._writer.push(token, may_stop=False)
        return text if finish is None else text + self._writer.rest(may_stop=False)

    def deliver(self, index: int, chosen: list[Chosen], text: str | None, finish: Finish | None) -> None:
        """Hands over what was made, with its text where that is known; in the event loop, as all below.

        Raises:
            TriviumError: one of these tokens has no text; those before it are handed over.
        """
        if text is not None:
            self._hand_over(index, chosen, text, finish)
            return
        texts: list[str] = []
        try:
            for one in chosen[:-1]:
                texts.append(self._write(one.token, None))
            texts.append(self._write(chosen[-1].token, finish))
        finally:
            if texts:
                end = finish if len(texts) == len(chosen) else None
                self._hand_over(index, chosen[: len(texts)], "".join(texts), end)

    def _hand_over(self, index: int, chosen: list[Chosen], text: str, finish: Finish | None) -> None:
        if self._pending is None:
            self._pending = Piece(index)
        self._pending.tokens += chosen
        self._pending.text += text
        self._pending.finish = finish
        self.woken.set()

    def fail(self, error: TriviumError) -> None:
        """It ends here."""
        self.error = error
        self.woken.set()

    def next(self) -> Piece | None:
        """What has been made since the last piece; None if nothing has.

        Raises:
            TriviumError: the text cannot be finished.
        """
        piece, self._pending = self._pending, None
        if self.error is not None:
            if piece is None:
                raise self.error
            self.woken.set()  # there is the error still, behind what was made before it
        return piece
