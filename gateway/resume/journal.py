"""Journal: what one Track stream needs to go on at another instance, and what its caller has got."""

from collections import deque
from dataclasses import dataclass

from google.rpc import code_pb2

from gateway.endpoint import Endpoint
from gateway.failures import found
from gateway.resume import track_messages
from gateway.routes import Pin
from services.kit.wire import parsed
from trivium.sequence.v1 import sequence_pb2 as pb

OVERHEAD = 128  # bytes that a message costs besides its own


@dataclass(frozen=True, slots=True)
class Input:
    """One message of the caller."""

    data: bytes
    opens: bool  # it is the first one
    has_values: bool  # else it gets no answer
    names_model: bool  # as the first one named it


class Journal:
    """The committed state of a stream, the inputs after it, and the last step that was delivered.

    An answer that brings the stream's state commits the oldest input with values, which is forgotten then. An input
    without values is forgotten when it is the oldest and was sent. An attempt begins at the committed state, at the
    bundle that has answered; what it answers again is equal to the bit, and is dropped step by step, as another
    instance may put other steps into one answer.
    """

    def __init__(self) -> None:
        self._head: pb.TrackRequest | None = None  # the caller's first message without its values
        self._wants_state = False  # the caller does
        self._inputs: deque[Input] = deque()
        self._bytes = 0  # of the inputs
        self._head_bytes = 0
        self._base = 0  # number of the oldest input
        self._state = b""
        self._committed: int | None = None  # step of the state; None until there is an answer
        self._pin: Pin | None = None
        self._greeted = self._renamed = False  # the attempt has sent its first message, and named the bundle in it
        self._sent = 0  # number of the attempt's next input
        self._step = 0  # the last one of the attempt
        self.delivered = 0  # the last step that the caller got; 0 before the first one
        self.closed = False  # the caller sends no more

    @property
    def model(self) -> str:
        """As the caller names it."""
        return self._head.model if self._head is not None else ""

    @property
    def pin(self) -> Pin | None:
        """The bundle that has answered."""
        return self._pin

    @property
    def step(self) -> int | None:
        """The last step that was delivered; None if the caller's own state alone says which it would be."""
        resumed = self._head is not None and self._head.resume_state
        return None if resumed and not self.delivered else self.delivered

    @property
    def asked(self) -> bool:
        """Whether an answer is due."""
        return bool(self._inputs)

    @property
    def idle(self) -> bool:
        """Whether no instance is needed now: nothing is asked for, and no first message waits to be sent."""
        return not self.closed and not self._inputs and (self._greeted or self._head is None)

    @property
    def over(self) -> bool:
        """Whether its caller has sent everything and has every answer; one that never got any asks an instance."""
        return self.closed and not self._inputs and (self.delivered > 0 or self._head is None)

    @property
    def complete(self) -> bool:
        """Whether the attempt was sent everything, and all of it was answered."""
        return self.closed and self._greeted and not self._inputs

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._head_bytes + self._bytes + len(self._state)

    def take(self, data: bytes) -> None:
        """One more message of the caller.

        Raises:
            MalformedRequest: it is none.
        """
        request = parsed(pb.TrackRequest, data)
        has_values = bool(request.values)
        if self._head is None:
            self._wants_state, request.return_state = request.return_state, True
            if has_values:
                self._append(Input(request.SerializeToString(), opens=True, has_values=True, names_model=False))
            self._head = track_messages.without(request, "values")
            self._head_bytes = self._head.ByteSize()
            return
        names_model = bool(request.model) and request.model == self._head.model
        self._append(Input(data, opens=False, has_values=has_values, names_model=names_model))

    def begin(self) -> None:
        """A new attempt."""
        self._greeted = self._renamed = False
        self._sent, self._step = self._base, self._committed or 0

    def next(self) -> bytes | None:
        """The attempt's next message; None if there is none now."""
        if not self._greeted:
            self._greeted = True
            if not (self._inputs and self._inputs[0].opens):
                return self._opening()
            if self._pin is not None:
                self._sent += 1
                return self._pinned(pb.TrackRequest.FromString(self._inputs[0].data))
        position = self._sent - self._base
        if position >= len(self._inputs):
            return None
        given = self._inputs[position]
        self._sent += 1
        self._forget()
        return track_messages.unnamed(given.data) if given.names_model and self._renamed else given.data

    def answered(self, data: bytes, endpoint: Endpoint) -> bytes | None:
        """The answer as the caller gets it: what it has not got before; None if it has got all of it.

        Raises:
            CallFailed: it is none, not the one to the next steps, or another bundle's.
        """
        answer = track_messages.answer(data, endpoint)
        self._follow(answer, endpoint)
        if answer.state:
            self._commit(answer.state)
        if self._step <= self.delivered:
            return None
        delivered, self.delivered = self.delivered, self._step
        return answer.SerializeToString() if self._cut(answer, delivered) else data

    def _follow(self, answer: pb.TrackResponse, endpoint: Endpoint) -> None:
        """Goes to the last step that the attempt has answered."""
        first, last = track_messages.steps(answer, endpoint)
        if answer.model and self._pin is not None and answer.model != str(self._pin):
            raise found(code_pb2.INTERNAL, f"{endpoint.id} answered with {answer.model} and was asked for {self._pin}")
        resumed = self._committed is None and self._head is not None and self._head.resume_state
        before = first - 1 if resumed else self._step  # the caller's own state alone says how many steps there were
        if first != before + 1:
            raise found(code_pb2.INTERNAL, f"{endpoint.id} answered step {first} after step {before}")
        if self._committed is None:
            self._committed = before
            self._pin = Pin.said(endpoint, answer.model)
        self._step = last

    def _cut(self, answer: pb.TrackResponse, delivered: int) -> bool:
        """Takes away what the caller has got before or did not ask for; False if there was nothing of that."""
        cut = False
        if answer.steps[0].step <= delivered:
            del answer.steps[: delivered - answer.steps[0].step + 1]
            cut = True
        if answer.model and delivered:
            answer.ClearField("model")
            cut = True
        if answer.state and not self._wants_state:
            answer.ClearField("state")
            cut = True
        return cut

    def _append(self, given: Input) -> None:
        self._inputs.append(given)
        self._bytes += len(given.data) + OVERHEAD

    def _commit(self, state: bytes) -> None:
        assert self._head is not None
        if not self._state:
            self._head = track_messages.without(self._head, "resume_state")
            self._head_bytes = self._head.ByteSize()
        self._state, self._committed = state, self._step
        if self._inputs:
            self._pop()
        self._forget()

    def _forget(self) -> None:
        """The oldest inputs without values, as far as they were sent: nobody answers those."""
        while self._inputs and self._base < self._sent and not self._inputs[0].has_values:
            self._pop()

    def _pop(self) -> None:
        self._bytes -= len(self._inputs.popleft().data) + OVERHEAD
        self._base += 1

    def _opening(self) -> bytes:
        """The first message of an attempt that does not begin with the caller's first values."""
        assert self._head is not None
        if not self._state and self._pin is None:
            return self._head.SerializeToString()
        head = pb.TrackRequest()
        head.CopyFrom(self._head)
        if self._state:
            head.resume_state = self._state
        return self._pinned(head)

    def _pinned(self, first: pb.TrackRequest) -> bytes:
        """The attempt's first message, in which the bundle that has answered is named as far as it is known."""
        if self._pin is not None:
            first.model, self._renamed = str(self._pin), True
        return first.SerializeToString()
