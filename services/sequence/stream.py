"""Stream: one Track call: where it is, what it answers, what it cost.

Messages pass three stages, each of which may be ahead of the next: `series` reads them, `windows` computes, `answers`
says what came out. Between two runs of the engine stands the second one alone, so it does nothing else.
"""

import contextlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import InputTooLarge, InvalidField
from services.kit.inference import ranking
from services.kit.inference.bundle import Array
from services.kit.inference.job import Output
from services.kit.wire import with_field
from services.sequence.pipeline import Pipeline
from services.sequence.recurrent import SequenceModel, advance
from services.sequence.settings import SeriesSettings
from services.sequence.state import StreamState, unpacked
from trivium.sequence.v1 import sequence_pb2 as pb

DEFAULT_TOP_K = 1
STATE = pb.TrackResponse.STATE_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class Window:
    """What one run said, and the state after it."""

    output: Output
    state: StreamState
    ends_message: bool


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
        pipeline.check_width(first)
        self._digest = model.digest
        width = pipeline.recurrence.state_width
        self._state = StreamState.fresh(width)
        if first.resume_state:
            self._state = unpacked(first.resume_state, self._digest, width, "resume_state")
        self._begun = self._read = self._state.step  # steps so far: when it was opened, and that were read
        self.answered = self._begun  # the last step whose answer went out; kept by whoever sends them
        self._queue_s = self._compute_s = 0.0
        self._largest_batch = 0

    async def series(self, requests: AsyncGenerator[pb.TrackRequest, None]) -> AsyncGenerator[Array, None]:
        """The steps of each message, float32 [steps, width].

        Raises:
            InvalidField, InputTooLarge: a message that this stream cannot take.
        """
        first = True
        async with contextlib.aclosing(requests):
            async for request in requests:
                if not first:
                    self._check_later(request)
                first = False
                steps = self._pipeline.steps(request.values)
                self._check_length(steps)
                self._read += steps
                yield self._pipeline.series(request.values)

    async def windows(self, series: AsyncGenerator[Array, None], deadline: Deadline) -> AsyncGenerator[Window, None]:
        """What each run of the engine said, in order."""
        state = self._state
        async with contextlib.aclosing(series):
            async for x in series:
                last = state.step + len(x)
                outputs = advance(self._model, state, x, deadline, self._settings.window_steps, admitted=True)
                async with contextlib.aclosing(outputs):
                    async for output in outputs:
                        yield Window(output, StreamState(state.step, state.values), state.step == last)

    def answers(self, window: Window) -> Iterator[tuple[int, pb.TrackResponse | bytes]]:
        """The last step of a window and the answer to all of them; one that brings the state as bytes.

        Raises:
            InvalidField: the values were too large for the model, after the answer to the steps before.
        """
        self._add(window.output)
        said = self._pipeline.said(window.output.arrays)
        before, sound = window.state.step - len(said), self._pipeline.sound(said)
        if sound < len(said):
            if sound:
                yield before + sound, self._answer(before, said[:sound])
            self._pipeline.check_said(said)
        answer = self._answer(before, said)
        if self._return_state and window.ends_message:
            yield window.state.step, with_field(answer, STATE, window.state.parts(self._digest))
        else:
            yield window.state.step, answer

    def report(self, call: Call) -> None:
        """Tells the call's trailers, stage times and log line what the stream cost, and how many steps it answered."""
        call.fields["steps"] = self.answered - self._begun
        self._model.report(Output({}, self._queue_s, self._compute_s, self._largest_batch), call)

    def _answer(self, before: int, said: Array) -> pb.TrackResponse:
        """To the steps after the first `before` ones, of which the model has said this, float32 [steps, numbers]."""
        answer, first = pb.TrackResponse(), before + 1
        if self._pipeline.classifies:
            for step, ranked in enumerate(self._pipeline.rank_steps(said, self._top_k), first):
                answer.steps.add(step=step, classes=ranking.encoded(ranked))
        else:
            for step, values in enumerate(said.tolist(), first):
                answer.steps.add(step=step, values=values)
        if before == self._begun:
            answer.model = f"{self._model.name}:{self._model.version}"
        return answer

    def _add(self, output: Output) -> None:
        self._queue_s += output.queue_s
        self._compute_s += output.compute_s
        self._largest_batch = max(self._largest_batch, output.batch_size)

    def _check_later(self, request: pb.TrackRequest) -> None:
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
            self._pipeline.check_length(steps, "values", taken=self._read)
