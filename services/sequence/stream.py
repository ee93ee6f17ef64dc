"""Stream: one Track call: where it is, what it answers, what it cost."""

from collections.abc import AsyncGenerator

from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import InputTooLarge, InvalidField
from services.kit.inference import bundle as bundles
from services.kit.inference import ranking
from services.kit.inference.bundle import Array
from services.kit.inference.job import Output
from services.sequence.pipeline import Pipeline
from services.sequence.recurrent import SequenceModel, advance
from services.sequence.settings import SeriesSettings
from services.sequence.state import StreamState, unpacked
from trivium.sequence.v1 import sequence_pb2 as pb

DEFAULT_TOP_K = 1


class Stream:
    """One live stream.

    Args:
        first: the message that opened it.

    Raises:
        InvalidField, StateMismatch: what `first` asks for cannot be had.
    """

    def __init__(
        self, model: SequenceModel, pipeline: Pipeline, first: pb.TrackRequest, settings: SeriesSettings
    ) -> None:
        self._model, self._pipeline, self._settings = model, pipeline, settings
        self._named, self._return_state = first.model, first.return_state
        self._top_k = ranking.top_k(first, DEFAULT_TOP_K)
        self._digest = bytes.fromhex(bundles.digest(model.bundle))
        width = pipeline.recurrence.state_width
        self._state = StreamState.fresh(width)
        if first.resume_state:
            self._state = unpacked(first.resume_state, self._digest, width, "resume_state")
        self._begun = self._state.step
        self._answered = self._state.step
        self._queue_s = self._compute_s = 0.0
        self._largest_batch = 0

    @property
    def step(self) -> int:
        """The last step that was answered."""
        return self._answered

    def check_later(self, request: pb.TrackRequest) -> None:
        """Whether a message can come after the first one.

        Raises:
            InvalidField: it has what belongs into the first message.
        """
        if request.model not in ("", self._named):
            raise InvalidField(
                f"model is {request.model!r}, and the first message of the stream asked for {self._named!r}",
                field="model",
                limit=self._named,
                value=request.model,
            )
        if request.resume_state:
            raise InvalidField(
                "resume_state belongs into the first message of a stream",
                field="resume_state",
                value=f"{len(request.resume_state)} bytes",
            )

    async def answers(self, request: pb.TrackRequest, deadline: Deadline) -> AsyncGenerator[pb.TrackResponse, None]:
        """The answer to each step of a message, in order."""
        x = self._pipeline.series(request.values)
        self._check_length(len(x))
        left = len(x)
        windows = advance(self._model, self._state, x, deadline, self._settings.window_steps, admitted=True)
        async for window in windows:
            self._add(window)
            said = self._pipeline.said(window.arrays)
            for row in said:
                left -= 1
                answer = self._answer(row)
                if self._return_state and not left:
                    answer.state = self._state.packed(self._digest)
                yield answer

    def report(self, call: Call) -> None:
        """Tells the call's trailers, stage times and log line what the stream cost, and how many steps it answered."""
        call.fields["steps"] = self._answered - self._begun
        self._model.report(Output({}, self._queue_s, self._compute_s, self._largest_batch), call)

    def _answer(self, said: Array) -> pb.TrackResponse:
        answer = pb.TrackResponse(step=self._answered + 1)
        if self._pipeline.classifies:
            answer.classes.extend(ranking.encoded(self._pipeline.rank(said, self._top_k)))
        else:
            answer.values.extend(self._pipeline.values(said))
        if self._answered == self._begun:
            answer.model = f"{self._model.name}:{self._model.version}"
        self._answered += 1
        return answer

    def _add(self, window: Output) -> None:
        self._queue_s += window.queue_s
        self._compute_s += window.compute_s
        self._largest_batch = max(self._largest_batch, window.batch_size)

    def _check_length(self, steps: int) -> None:
        limit = self._settings.max_message_steps
        if steps > limit:
            raise InputTooLarge(
                f"values has {steps} steps and a message has at most {limit}; send them in several messages",
                field="values",
                limit=str(limit),
                value=str(steps),
            )
        if steps:
            self._pipeline.check_length(steps, "values", taken=self._state.step)
