"""Answers: what a caller of Generate gets, message by message."""

from collections.abc import AsyncGenerator

from services.kit.inference.job import Output
from services.language.leaving import Leaving
from services.language.sequence import Chosen, Finish, Piece, Sequence
from services.language.writer import Texts, Writer
from trivium.language.v1 import language_pb2 as pb

REASONS: dict[Finish, pb.FinishReason.ValueType] = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
}


class Answers:
    """The texts of one request, from their acceptance to their ends.

    Args:
        model: what the first message says of it.
        echo: text of the prompt, where the caller wants it back.
    """

    def __init__(self, writer: Writer, texts: Texts, model: str, echo: str | None) -> None:
        self._writer, self._texts, self._model, self._echo = writer, texts, model, echo
        self._begun: set[int] = set()  # choices that have had their first message
        self.sent = 0  # tokens that went out

    async def messages(self, leaving: Leaving) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Every message, as soon as there is something to say; a slow reader gets more in each.

        Raises:
            Overloaded, DeadlineUnreachable, DeadlineExpired: before the first one, or when the time is over.
            Draining: the instance leaves.
        """
        texts, scheduler = self._texts, self._writer.scheduler
        open_texts = dict(enumerate(texts.sequences))
        waiting = [sequence for sequence in texts.sequences if sequence.finish is None and sequence.limit > 0]
        with leaving.watching(texts.woken):
            if waiting:
                scheduler.submit(waiting)
            try:
                for choice, sequence in list(open_texts.items()):
                    if sequence not in waiting:
                        del open_texts[choice]
                        finish: Finish = sequence.finish or "length"
                        yield self._message(choice, Piece(len(sequence.made), finish=finish))
                while open_texts:
                    texts.woken.clear()
                    leaves = leaving.left  # then this turn is the last one, also where a slow reader has more to come
                    for choice, sequence in list(open_texts.items()):
                        if (piece := sequence.next()) is not None:
                            if piece.finish is not None:
                                del open_texts[choice]
                            yield self._message(choice, piece)
                    if open_texts and leaves:
                        leaving.check()
                    if open_texts:
                        await texts.woken.wait()
            finally:
                for sequence in open_texts.values():
                    scheduler.leave(sequence)

    @property
    def output(self) -> Output:
        """What the texts cost, for trailers and log."""
        sequences = self._texts.sequences
        return Output(
            {},
            max(max(0.0, sequence.started - sequence.submitted) for sequence in sequences),
            max(sequence.compute_s for sequence in sequences),
            max(sequence.largest_batch for sequence in sequences),
        )

    def _message(self, choice: int, piece: Piece) -> pb.GenerateResponse:
        sequence = self._texts.sequences[choice]
        message = pb.GenerateResponse(
            choice=choice,
            index=piece.index,
            token_ids=[chosen.token for chosen in piece.tokens],
            text=piece.text,
        )
        self.sent += len(piece.tokens)
        if sequence.sampling.alternatives is not None:
            message.logprobs.extend(map(logprob, piece.tokens))
        if not self._begun:
            message.model = self._model
        if choice not in self._begun:
            self._begun.add(choice)
            message.seed = sequence.sampling.seed
            if self._echo is not None and not piece.index:  # a text that is gone on with brings what comes next alone
                self._prepend(message, self._echo)
        if piece.finish is not None:
            self._finish(message, sequence, piece.finish)
        return message

    def _prepend(self, message: pb.GenerateResponse, prompt: str) -> None:
        tokens = list(message.token_ids)
        del message.token_ids[:]
        message.token_ids.extend([*self._texts.prompt, *tokens])
        message.echoed = len(self._texts.prompt)
        message.text = prompt + message.text

    def _finish(self, message: pb.GenerateResponse, sequence: Sequence, finish: Finish) -> None:
        message.finish_reason = REASONS[finish]
        message.stop_string = sequence.stop_string
        message.usage.prompt_tokens = len(self._texts.prompt)
        message.usage.generated_tokens = len(sequence.made)


def logprob(chosen: Chosen) -> pb.TokenLogprob:
    """One token as callers see it."""
    return pb.TokenLogprob(
        token_id=chosen.token,
        logprob=chosen.logprob,
        alternatives=[pb.Alternative(token_id=token, logprob=value) for token, value in chosen.alternatives],
    )


async def scores(writer: Writer, sequence: Sequence) -> list[Chosen]:
    """The log-probabilities of a sequence whose tokens are given.

    Raises:
        TriviumError: of the scheduler.
    """
    writer.scheduler.submit([sequence])
    found: list[Chosen] = []
    try:
        while True:
            sequence.woken.clear()
            piece = sequence.next()
            if piece is None:
                await sequence.woken.wait()
                continue
            found += piece.tokens
            if piece.finish is not None:
                return found
    finally:
        if sequence.finish is None:
            writer.scheduler.leave(sequence)
