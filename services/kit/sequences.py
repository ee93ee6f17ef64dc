"""Sequences of the Open Inference Protocol: where a request says which one it belongs to, and the live ones."""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

from google.rpc import code_pb2

from inference import grpc_service_pb2 as pb
from services.kit.background import forever
from services.kit.errors import InvalidField, Overloaded, SequenceNotStarted, StateMismatch, UpstreamError
from services.kit.open_inference import INTEGER
from services.kit.settings import setting

MAX_ID = 256  # bytes of a sequence id that is a text
STATE = "trivium_state"  # request and response parameter: the state in base64, empty for a new sequence
# The parameters that speak of sequences, and the types that each may have.
PARAMETERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sequence_id": (*INTEGER, "string_param"),
        "sequence_start": ("bool_param",),
        "sequence_end": ("bool_param",),
        STATE: ("string_param",),
    }
)
SWEEPS = 4  # looks for idle sequences within one idle time

T = TypeVar("T")  # what is kept of a sequence between its requests
SequenceId = int | str  # 7 and "7" are two sequences; 0 and "" are none
Key = tuple[str, int, SequenceId]  # model, version


@dataclass(frozen=True, slots=True)
class SequenceLimits:
    """How many sequences live at once, and how long one may be silent."""

    max_live: int = setting(20_000, low=1)  # the next one is refused with QUEUE_FULL
    idle_s: float = setting(60.0, low=0.01)  # silence after which a sequence is forgotten


@dataclass(frozen=True, slots=True)
class Step:
    """What a request says of its sequence."""

    id: SequenceId = 0
    start: bool = False
    end: bool = False
    state: str | None = None  # the caller keeps the state: in base64, "" for a new sequence; None: it does not


def in_sequence(parameters: Mapping[str, pb.InferParameter]) -> bool:
    """Whether the request names a sequence, in the right types, and its caller does not keep the state itself."""
    if "sequence_id" not in parameters or STATE in parameters:
        return False
    given = {name: parameters[name].WhichOneof("parameter_choice") for name in PARAMETERS if name in parameters}
    if any(choice not in PARAMETERS[name] for name, choice in given.items()):
        return False
    return bool(getattr(parameters["sequence_id"], given["sequence_id"] or ""))


def step_of(parameters: Mapping[str, pb.InferParameter]) -> Step:
    """The request's place in its sequence; parameters of wrong types were refused before.

    Raises:
        InvalidField: an id below 0, or a text of more than MAX_ID bytes.
    """
    flags = {
        name: parameters[f"sequence_{name}"].bool_param for name in ("start", "end") if f"sequence_{name}" in parameters
    }
    state = parameters[STATE].string_param if STATE in parameters else None
    return Step(_id(parameters), state=state, **flags)


def _id(parameters: Mapping[str, pb.InferParameter]) -> SequenceId:
    if "sequence_id" not in parameters:
        return 0
    value = parameters["sequence_id"]
    choice = value.WhichOneof("parameter_choice")
    if choice == "string_param":
        size = len(value.string_param.encode())
        if size > MAX_ID:
            raise _invalid_id(f"'sequence_id' has {size} bytes and the limit is {MAX_ID}", MAX_ID, size)
        return value.string_param
    number = int(getattr(value, choice)) if choice else 0
    if number < 0:
        raise _invalid_id(f"'sequence_id' must be 0 or more, got {number}", 0, number)
    return number


def _invalid_id(message: str, limit: int, value: int) -> InvalidField:
    return InvalidField(message, field="parameters.sequence_id", limit=str(limit), value=str(value))


@dataclass(eq=False, slots=True)
class Live(Generic[T]):
    """One live sequence; `value` is None until its first request has been answered."""

    key: Key
    used: float  # instant at which its last request ended
    value: T | None = None
    waiting: int = 0  # requests that have come and not ended
    ending: bool = False  # its last request is among them
    gone: bool = False  # its first request has failed, its last one was answered, or it was forgotten
    failures: int = 0  # requests that have failed
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sequences(Generic[T]):
    """The live sequences of all models, by model and id. Requests of one sequence take turns in the order they came."""

    def __init__(self, limits: SequenceLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._live: OrderedDict[Key, Live[T]] = OrderedDict()  # the longest idle first

    def __len__(self) -> int:
        return len(self._live)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Sequences[T]"]:
        """Forgets idle sequences until the block ends."""
        sweeping = asyncio.create_task(forever("sweep sequences", self._sweep_later), name="sweep sequences")
        try:
            yield self
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def turn(self, model: str, version: int, step: Step) -> AsyncIterator[Live[T]]:
        """The request's sequence, for it alone; the caller sets `value` when the request has been answered.

        A request that fails leaves the sequence as it was; if it was the first one, there is no sequence, and if the
        last one is wrong in itself, the sequence has ended all the same. Those that were waiting behind it are refused,
        since they would go on over a gap.

        Args:
            model, version: sequences of different ones are different sequences.

        Raises:
            InvalidField: the request names no sequence.
            StateMismatch: it starts a sequence that is live, or was waiting behind a request that failed.
            SequenceNotStarted: it goes on with one that is not.
            Overloaded: too many are live.
        """
        live = self._started(model, version, step) if step.start else self._found(model, version, step)
        live.waiting += 1
        failures = live.failures
        live.ending = live.ending or step.end
        try:
            async with live.lock:
                if live.gone:
                    raise _not_started(model, step)
                if live.failures > failures:
                    raise _after_a_gap(model, step)
                try:
                    yield live
                except BaseException:
                    live.failures += 1
                    raise
                if step.end:
                    self._forget(live)
        except BaseException as error:
            if step.end:
                live.ending = False
            if (step.start and live.value is None) or (step.end and _is_wrong(error)):
                self._forget(live)
            raise
        finally:
            live.waiting -= 1
            live.used = self._clock()
            if self._live.get(live.key) is live:
                self._live.move_to_end(live.key)

    def sweep(self) -> None:
        """Forgets those that have been silent for too long."""
        oldest = self._clock() - self._limits.idle_s
        for live in list(self._live.values()):
            if live.used > oldest:
                return
            if not live.waiting:
                self._forget(live)

    def _started(self, model: str, version: int, step: Step) -> Live[T]:
        key = _key(model, version, step)
        known = self._live.get(key)
        if known is not None and not known.ending:
            raise StateMismatch(
                f"sequence {step.id} to model '{model}' is live: end it first, or let it be silent for "
                f"{self._limits.idle_s:g} s",
                field="parameters.sequence_start",
                value=str(step.id),
            )
        if known is None and len(self._live) >= self._limits.max_live:
            raise Overloaded(
                f"{len(self._live)} sequences are live and the limit is {self._limits.max_live}",
                limit=str(self._limits.max_live),
                value=str(len(self._live)),
            )
        live = self._live[key] = Live(key, self._clock())
        self._live.move_to_end(key)
        return live

    def _found(self, model: str, version: int, step: Step) -> Live[T]:
        live = self._live.get(_key(model, version, step))
        if live is None or live.ending:
            raise _not_started(model, step)
        return live

    def _forget(self, live: Live[T]) -> None:
        live.gone = True
        if self._live.get(live.key) is live:
            del self._live[live.key]

    async def _sweep_later(self) -> None:
        await asyncio.sleep(self._limits.idle_s / SWEEPS)
        self.sweep()


def _key(model: str, version: int, step: Step) -> Key:
    if not step.id:
        raise InvalidField(
            f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID",
            field="parameters.sequence_id",
            value=repr(step.id),
        )
    return model, version, step.id


def _is_wrong(error: BaseException) -> bool:
    """Whether the request itself is to blame, so that sending it again would be no use."""
    if isinstance(error, UpstreamError):
        return bool(error.status.code == code_pb2.INVALID_ARGUMENT)
    return isinstance(error, InvalidField)


def _after_a_gap(model: str, step: Step) -> StateMismatch:
    return StateMismatch(
        f"a request before this one of sequence {step.id} to model '{model}' has failed: send both again",
        field="parameters.sequence_id",
        value=str(step.id),
    )


def _not_started(model: str, step: Step) -> SequenceNotStarted:
    return SequenceNotStarted(
        f"inference request for sequence {step.id} to model '{model}' must specify the START flag on the first request "
        "of the sequence",
        field="parameters.sequence_start",
        value=str(step.id),
    )
