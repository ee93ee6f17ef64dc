"""A sequence service without a network: its state is the sum of what it was given."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.endpoint import Endpoint
from gateway.resume.track import TRACK, Track
from gateway.settings import ResumeSettings
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import InvalidField, StateMismatch
from tests.tracked import Answered, by_step
from tests.unit.gateway.fakes import Gateway, broken, endpoint, fake, model, refused
from trivium.common.v1 import model_pb2
from trivium.sequence.v1 import sequence_pb2 as pb

SEQUENCE = "trivium-sequence-v1"
LONG = ResumeSettings(timeout_s=20)


def bundle(version: int = 1, digest: str = "d1") -> model_pb2.ModelInfo:
    """One version of the bundle "sums"."""
    return model("sums", version, digest=digest, stateful=True)


class Instance:
    """Answers each step with the sum so far, `window` steps of a message in one response.

    `fails` maps the number of a step, counted over all streams, to what happens in the place of its answer, once; those
    of the same response before it are lost with it.
    """

    def __init__(self, name: str = "one", *models: model_pb2.ModelInfo, window: int = 1) -> None:
        self._window = window
        self.endpoint = endpoint(name, *(models or (bundle(),)), service=SEQUENCE)
        fake(self.endpoint).follow = self.follow
        self.fails: dict[int, Exception] = {}
        self.always: Exception | None = None  # what every stream gets in the place of its first answer
        self.down = False  # nothing gets through
        self.refuses: Exception | None = None  # what every stream gets before anything of it is read
        self.got: list[pb.TrackRequest] = []
        self.answers = 0
        self.streams = self.open = 0
        self.gate = asyncio.Event()  # answers wait for it
        self.gate.set()
        self.ends_early = 0  # streams that it ends well before their callers do
        self.breaks_at_end: Exception | None = None  # in the place of the good end
        self.skips = 0  # a step that it does not answer
        self.claims = ""  # the bundle that it says it has, if it lies
        self.fourth = asyncio.Event()  # the fourth stream has begun
        self.cut = asyncio.Event()  # set: streams that wait for a message break

    async def follow(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """One stream."""
        if self.down:
            raise broken(sent=False)
        self.streams += 1
        if self.streams == 4:
            self.fourth.set()
        if self.refuses is not None:
            raise self.refuses
        self.open += 1
        try:
            async for answer in self._stream(requests):
                yield answer
        finally:
            self.open -= 1

    async def _stream(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        first: pb.TrackRequest | None = None
        step, total = 0, 0.0
        begun = False
        while (data := await self._message(requests)) is not None:
            request = pb.TrackRequest.FromString(data)
            self.got.append(request)
            if first is None:
                first = request
                if first.resume_state:
                    version, step, total = self._resumed(first.resume_state)
                version = self._version(first.model)
            elif request.model not in ("", first.model):
                raise refused(InvalidField("another model", field="model"))
            answer = pb.TrackResponse()
            for number, value in enumerate(request.values, 1):
                await self.gate.wait()
                if self.always is not None:
                    raise self.always
                self.answers += 1
                if self.answers in self.fails:
                    raise self.fails.pop(self.answers)
                step, total = step + 1, total * 0.5 + value
                if step != self.skips:
                    answer.steps.add(step=step, values=[total])
                ends = number == len(request.values)
                if not answer.steps or not (ends or number % self._window == 0):
                    continue
                if not begun:
                    answer.model, begun = self.claims or f"sums:{version}", True
                if first.return_state and ends:
                    answer.state = f"{self._digest(version)} {step} {total!r}".encode()
                yield answer.SerializeToString()
                answer = pb.TrackResponse()
            if self.ends_early:
                self.ends_early -= 1
                return
        if self.breaks_at_end is not None:
            raise self.breaks_at_end

    async def _message(self, requests: AsyncIterator[bytes]) -> bytes | None:
        reading, cut = asyncio.ensure_future(anext(requests, None)), asyncio.ensure_future(self.cut.wait())
        try:
            await asyncio.wait((reading, cut), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            raise broken()
        finally:
            reading.cancel()
            cut.cancel()

    def _version(self, named: str) -> int:
        ready = [m.version for m in self.endpoint.models or () if m.state == model_pb2.MODEL_STATE_READY]
        return int(named.partition(":")[2] or max(ready))

    def _digest(self, version: int) -> str:
        return next(found.digest for found in self.endpoint.models or () if found.version == version)

    def _resumed(self, state: bytes) -> tuple[int, int, float]:
        digest, step, total = state.decode().split()
        versions = [found.version for found in self.endpoint.models or () if found.digest == digest]
        if not versions:
            raise refused(StateMismatch("the state is of another bundle"))
        return versions[0], int(step), float(total)


def message(*values: float, **fields: Any) -> bytes:
    """One message of the caller."""
    return pb.TrackRequest(values=values, **fields).SerializeToString()


@dataclass
class Caller:
    """One caller of Track through a gateway."""

    instances: Sequence[Instance]
    settings: ResumeSettings = LONG
    deadline: Deadline = field(default_factory=Deadline)

    def __post_init__(self) -> None:
        self.gateway = Gateway([one.endpoint for one in self.instances])
        self.gateway.fleet.outliers._probe = self._healthy
        self.track = Track(self.gateway.routes, self.gateway.dispatch, self.settings, hand_over_s=0.02)
        self.call = Call(TRACK, self.deadline)
        self.messages: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.taken = 0  # messages that the gateway has read
        self.responses: list[bytes] = []  # as they came
        self._next: deque[Answered] = deque()  # steps of the last one that the test has not looked at
        self.answers = self.track.methods()[TRACK].handler(self._requests(), self.call)

    async def _healthy(self, endpoint: Endpoint) -> bool:
        return False

    async def _requests(self) -> AsyncIterator[bytes]:
        while (data := await self.messages.get()) is not None:
            if isinstance(data, Exception):
                raise data
            self.taken += 1
            yield data

    def send(self, *messages: bytes, end: bool = False) -> None:
        """Sends the messages, and half-closes."""
        for data in messages:
            self.messages.put_nowait(data)
        if end:
            self.messages.put_nowait(None)

    async def next(self) -> Answered:
        """The next step."""
        if not self._next:
            self._next.extend(self._came(await anext(self.answers)))
        return self._next.popleft()

    async def rest(self) -> list[Answered]:
        """All steps to the end."""
        found, self._next = list(self._next), deque()
        async with asyncio.timeout(10):
            async for data in self.answers:
                found += self._came(data)
        return found

    def _came(self, data: bytes) -> list[Answered]:
        self.responses.append(data)
        return by_step([data])

    def publish(self, *instances: Instance) -> None:
        """These are there from now on."""
        self.gateway.routes.publish([one.endpoint for one in instances], answered=True)

    async def close(self) -> None:
        """The caller leaves; nothing is left behind."""
        await self.answers.aclose()
        await self.gateway.close()
        await settled()
        for one in self.instances:
            assert (one.endpoint.in_flight, one.endpoint.streams, one.open) == (0, 0, 0)
        named = {task.get_name() for task in asyncio.all_tasks()}
        assert not named & {"read stream"}


async def settled(done: Callable[[], bool] = lambda: False) -> None:
    """Lets everything run that can."""
    for _ in range(50):
        if done():
            return
        await asyncio.sleep(0)


MESSAGES = (message(1, 2, model="sums"), message(3, model="sums"), message(), message(4, 5, 6), message(7))
STEPS = 7


async def told(
    instances: Sequence[Instance], *messages: bytes, settings: ResumeSettings | None = None
) -> list[Answered]:
    """Every answer that a caller gets to these messages, which it sends at once."""
    caller = Caller(instances, settings) if settings else Caller(instances)
    caller.send(*messages, end=True)
    found = await caller.rest()
    await caller.close()
    return found


async def one_by_one(instances: Sequence[Instance], *messages: bytes) -> list[Answered]:
    """The same to a caller that waits for the answers to a message before it sends the next one."""
    caller, found = Caller(instances), []
    async with asyncio.timeout(10):
        for data in messages:
            caller.send(data)
            found += [await caller.next() for _ in pb.TrackRequest.FromString(data).values]
        caller.send(end=True)
        found += await caller.rest()
    await caller.close()
    return found
