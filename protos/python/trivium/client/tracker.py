"""Tracker: one live series, step by step."""

from collections.abc import Generator, Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType

from trivium.client import results
from trivium.client.channel import Channel
from trivium.client.results import TrackAnswer
from trivium.client.values import Values, agreed, flat
from trivium.sequence.v1.sequence_pb2 import TrackRequest, TrackResponse

TRACK = "/trivium.sequence.v1.SequenceService/Track"


class Tracker:
    """A live series: numbers go in, an answer to each step comes out, in order. A context manager; for one thread.

    Attributes:
        state: the series' state after the last step that `send` has returned; `resume_state` goes on from it.
    """

    def __init__(self, channel: Channel, opening: TrackRequest) -> None:
        self.state = opening.resume_state
        self._opening, self._begun = opening, False
        self._width = opening.width or None
        self._requests: SimpleQueue[TrackRequest | None] = SimpleQueue()
        self._requests.put(opening)
        self._answers = answers(channel.stream(TRACK, iter(self._requests.get, None), TrackResponse, None))

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, values: Values) -> tuple[TrackAnswer, ...]:
        """The answers to the next steps, when all of them are there.

        Args:
            values: a number, a step of several, or many steps ([steps] or [steps][width], at most 1024 of them).

        Returns:
            One answer a step; nothing for no values. The last one brings the state.

        Raises:
            TriviumCallError: as `Client.track`. The stream has ended then, `state` is that before these values, and
                another tracker may go on from it.
            TypeError, ValueError: `values` holds something else than numbers, or steps of another width than those
                before; nothing was sent.
            RuntimeError: the stream ended before.
        """
        numbers, width = flat(values)
        if not numbers:
            return ()
        self._width = agreed(self._width, numbers, width)
        if not self._begun and self._width:
            self._opening.width = self._width  # it is sent below, with the first values
        self._begun = True
        self._requests.put(TrackRequest(values=numbers))
        found = []
        for answer in self._answers:
            found.append(answer)
            if answer.state:
                self.state = answer.state
                return tuple(found)
        raise RuntimeError("this stream has ended")

    def close(self) -> None:
        """Ends the stream."""
        self._requests.put(None)
        self._answers.close()


def requests(values: Iterable[Values], opening: TrackRequest) -> Iterator[TrackRequest]:
    """The messages of one stream. The first has no values: a wrong model is known before the first of them comes."""
    yield opening
    known = opening.width or None
    for item in values:
        numbers, width = flat(item)
        known = agreed(known, numbers, width)
        yield TrackRequest(values=numbers)


def answers(messages: Iterator[TrackResponse]) -> Generator[TrackAnswer, None, None]:
    """The answers of one stream, step by step; each of them names the model, which only the first message does."""
    model = ""
    for message in messages:
        model = message.model or model
        yield from results.track_answers(message, model)
