"""However a call ends, it is counted once at each instance that had it, and the caller hears how many had it."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from google.rpc import code_pb2
from structlog.testing import capture_logs

from gateway.addressing import STREAM_INFER
from gateway.endpoint import Endpoint
from gateway.settings import StreamSettings
from gateway.stream_infer import StreamInfer
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import Draining, InvalidField, Overloaded, TriviumError
from tests.unit.gateway.fakes import CLASSIFY, STREAM, Gateway, broken, endpoint, refused
from trivium.vision.v1 import vision_pb2

FAILURES: tuple[BaseException, ...] = (
    broken(),
    broken(sent=False),
    broken(code_pb2.CANCELLED),
    broken(code_pb2.DEADLINE_EXCEEDED),
    refused(Draining("leaving", stage="admission")),
    refused(Overloaded("full")),
    refused(InvalidField("wrong", field="x")),
    refused(TriviumError("a bug")),
    ZeroDivisionError("a bug of the gateway's own"),
    asyncio.CancelledError(),
)


class Chance:
    """Three endpoints, whose answers are a matter of chance and which look at their counters."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.endpoints = [self._endpoint(name) for name in "abc"]
        self.gateway = Gateway(self.endpoints)
        self.gateway.fleet.outliers._probe = self._unhealthy

    def _endpoint(self, name: str) -> Endpoint:
        def answer(path: str, request: bytes) -> bytes:
            assert made.in_flight > 0
            if self.rng.random() < 0.4:
                raise self.rng.choice(FAILURES)
            response = oip.ModelStreamInferResponse()
            if path == STREAM_INFER:
                response.infer_response.id = oip.ModelInferRequest.FromString(request).id
            return response.SerializeToString()

        made = endpoint(name, answer=answer)
        return made

    async def _unhealthy(self, endpoint: Endpoint) -> bool:
        return False

    async def call(self) -> None:
        """One call of some kind, which its caller leaves now and then."""
        kind, call = self.rng.choice(("unary", "stream", "split")), Call("test", Deadline())
        work = asyncio.create_task(self._work(kind, call))
        if self.rng.random() < 0.3:
            for _ in range(self.rng.randrange(6)):
                await asyncio.sleep(0)
            work.cancel()
        await asyncio.wait((work,))
        if not work.cancelled():
            work.exception()
        if kind != "split" and not work.cancelled():
            assert [int(value) for key, value in call.trailers if key == "trivium-attempts"] in ([1], [2], [3])

    async def _work(self, kind: str, call: Call) -> None:
        if kind == "unary":
            await self.gateway.forwarder.method(CLASSIFY).handler(b"", call)
            return
        if kind == "stream":
            answers = self.gateway.forwarder.method(STREAM).handler(self._images(), call)
        else:
            split = StreamInfer(
                self.gateway.routes,
                self.gateway.dispatch,
                self.gateway.infer,
                self.gateway.texts,
                StreamSettings(idle_s=0.01),
            )
            answers = split.stream(self._tensors(), call)
        async for _ in answers:
            pass

    async def _images(self) -> AsyncIterator[bytes]:
        for number in range(self.rng.randrange(1, 4)):
            yield vision_pb2.ClassifyStreamRequest(id=str(number)).SerializeToString()

    async def _tensors(self) -> AsyncIterator[bytes]:
        for number in range(self.rng.randrange(4)):
            yield oip.ModelInferRequest(model_name="digits", id=str(number)).SerializeToString()


@pytest.mark.parametrize("seed", range(150))
async def test_counters_never_leak_and_never_go_below_zero(seed: int) -> None:
    chance = Chance(seed)
    with capture_logs():
        for _ in range(3):
            await asyncio.gather(*(chance.call() for _ in range(5)))
            assert [one.in_flight for one in chance.endpoints] == [0, 0, 0]
    await chance.gateway.close()


async def test_a_caller_that_is_cut_off_hears_how_many_instances_had_its_call() -> None:
    hanging = asyncio.Event()
    gateway = Gateway([endpoint()])
    upstream = gateway.endpoints[0].upstream
    upstream.hanging = hanging  # type: ignore[attr-defined]
    call = Call(CLASSIFY, Deadline())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await gateway.forwarder.method(CLASSIFY).handler(b"", call)
    assert call.trailers == [("trivium-attempts", "1")]
