"""SequenceCalls: calls that ask about series of numbers."""

from collections.abc import Iterable, Iterator

from trivium.client import results
from trivium.client.calls import Calls
from trivium.client.results import Classification, Forecast, Served, TrackAnswer
from trivium.client.tracker import TRACK, Tracker, answers, requests
from trivium.client.values import Values, flat, limited, stated_width
from trivium.sequence.v1.sequence_pb2 import (
    ClassifyRequest,
    ClassifyResponse,
    ForecastRequest,
    ForecastResponse,
    TrackRequest,
    TrackResponse,
)

SEQUENCE = "/trivium.sequence.v1.SequenceService"
MOST_CLASSES = 100


class SequenceCalls(Calls):
    """The sequence service's methods.

    A series is a list of steps, and a step is as many numbers as the bundle's input is wide (the last dimension of its
    input in Model). Numbers come one after the other or nested, [steps] or [steps][width]; lists, generators and numpy
    arrays are all the same. They travel as 32-bit floats. Nested numbers say how wide a step is: a model with another
    width refuses them with INVALID_ARGUMENT (INVALID_FIELD).
    """

    def classify_series(
        self, values: Values, model: str = "", top_k: int | None = None, *, timeout_s: float | None = None
    ) -> Classification:
        """The most probable classes of a whole series, best first.

        Args:
            values: the series, [steps] or [steps][width].
            model: "name", "name:version" or "name@label"; empty is the service's default or, where that has no
                classes, its first model that has.
            top_k: how many classes, in [1, 100]; the service's choice (5) if not given.
            timeout_s: seconds for this call; the client's if not given.

        Returns:
            At most `top_k` classes with their probabilities after the last step, and who answered.

        Raises:
            TriviumCallError: INVALID_ARGUMENT (INVALID_FIELD, INPUT_TOO_LARGE), NOT_FOUND (MODEL_NOT_FOUND),
                UNIMPLEMENTED (UNSUPPORTED_BY_MODEL), RESOURCE_EXHAUSTED (QUEUE_FULL, DEADLINE_UNREACHABLE),
                DEADLINE_EXCEEDED or UNAVAILABLE.
            TypeError, ValueError: `values` holds something else than numbers, or steps that are not of one width;
                `top_k` is no number in its range.
        """
        numbers, width = flat(values)
        request = ClassifyRequest(model=model, values=numbers, top_k=limited("top_k", top_k, MOST_CLASSES), width=width)
        message, trailers = self._channel.unary(
            f"{SEQUENCE}/Classify", request, ClassifyResponse, self._limit(timeout_s)
        )
        return results.classification(message.classes, Served.of(trailers))

    def forecast(
        self, values: Values, horizon: int | None = None, model: str = "", *, timeout_s: float | None = None
    ) -> Forecast:
        """The steps that follow a whole series.

        Args:
            values: the series so far, [steps] or [steps][width].
            horizon: steps to forecast, in [1, the model's max_horizon]; its longest if not given.
            model: as for `classify_series`; empty is the service's default or its first model that forecasts.
            timeout_s: seconds for this call; the client's if not given.

        Returns:
            `horizon` steps in the unit of the series, one after the other, and who answered.

        Raises:
            TriviumCallError, TypeError, ValueError: as `classify_series`.
        """
        numbers, width = flat(values)
        request = ForecastRequest(model=model, values=numbers, horizon=limited("horizon", horizon), width=width)
        message, trailers = self._channel.unary(
            f"{SEQUENCE}/Forecast", request, ForecastResponse, self._limit(timeout_s)
        )
        return results.forecast(message, Served.of(trailers))

    def track(
        self,
        values: Iterable[Values],
        model: str = "",
        *,
        top_k: int | None = None,
        resume_state: bytes = b"",
        return_state: bool = False,
        width: int | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[TrackAnswer]:
        """Reads a series as it comes, and answers every step, in order.

        Args:
            values: what to send, item by item, read while answers come back. Each item is one message: a number, a
                step of several, or many steps at once ([steps] or [steps][width], at most 1024 of them), which is
                faster. An iterator that waits for the next number keeps nothing back.
            model: as for `classify_series`; empty is the service's default or its first model that can track.
            top_k: classes in each answer, in [1, 100]; the service's choice (1) if not given.
            resume_state: `state` of an earlier answer of the same bundle, to go on from there; empty for a new series.
            return_state: whether the answer to the last step of each message brings the state.
            width: numbers of one step, to be compared with the model's. If not given, that of the steps in an array
                [steps][width] or a list with an item [steps][width]; other `values` are not compared, since the model
                is asked before the first of them comes. Items that are flat are whole steps of this width; where it
                is not known, the service refuses those that are no whole steps of its model.
            timeout_s: seconds for the whole stream; no limit if not given.

        Yields:
            One answer a step. The stream ends after the answer to the last one.

        Raises:
            TriviumCallError: as `classify_series`; also FAILED_PRECONDITION (STATE_MISMATCH) for the state of another
                bundle, INVALID_ARGUMENT (INVALID_FIELD) for a damaged one, and UNAVAILABLE (NO_INSTANCE, DRAINING)
                where the stream cannot be continued: its `metadata` then has the last `step` that was answered.
            TypeError, ValueError: an argument is of a wrong type or out of its range.
            Exception: what `values` raised, or what they are instead of numbers, after the answers to what came before.
        """
        opening = TrackRequest(
            model=model,
            resume_state=resume_state,
            top_k=limited("top_k", top_k, MOST_CLASSES),
            return_state=return_state,
            width=stated_width(values) if width is None else limited("width", width),
        )
        return answers(self._channel.stream(TRACK, requests(values, opening), TrackResponse, timeout_s))

    def tracker(
        self, model: str = "", *, top_k: int | None = None, resume_state: bytes = b"", width: int | None = None
    ) -> Tracker:
        """A live series that is sent piece by piece: `with client.tracker() as tracker: tracker.send(values)`.

        Args:
            model, top_k, resume_state: as for `track`.
            width: numbers of one step, to be compared with the model's; if not given, what is sent first says it where
                it is [steps][width].

        Returns:
            The open end of one stream. It is started by the first `send`, which raises what `track` does.
        """
        most = limited("top_k", top_k, MOST_CLASSES)
        opening = TrackRequest(
            model=model, resume_state=resume_state, top_k=most, return_state=True, width=limited("width", width)
        )
        return Tracker(self._channel, opening)
