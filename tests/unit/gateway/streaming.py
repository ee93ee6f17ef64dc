"""Messages of ModelStreamInfer, endpoints that answer them, and callers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from gateway.addressing import STREAM_INFER
from gateway.endpoint import Endpoint
from gateway.settings import StreamSettings
from gateway.stream_infer import StreamInfer
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from tests.unit.gateway.fakes import Gateway, broken, endpoint, fake, model


def request(request_id: str, name: str = "digits", *, sequence: int = 0) -> bytes:
    """One message of the caller."""
    made = oip.ModelInferRequest(model_name=name, id=request_id)
    if sequence:
        made.parameters["sequence_id"].int64_param = sequence
    return made.SerializeToString()


def answer(request_id: str, instance: str, *, final: bool = True) -> bytes:
    """One message of an instance, which names itself in the version."""
    made = oip.ModelStreamInferResponse()
    made.infer_response.id, made.infer_response.model_version = request_id, instance
    made.infer_response.parameters["triton_final_response"].bool_param = final
    return made.SerializeToString()


def serving(
    name: str, *models: str, breaks_after: int | None = None, repeats: int = 1, error: Exception | None = None
) -> Endpoint:
    """An endpoint that answers each request, and breaks its stream after so many answers."""
    made = endpoint(name, *(model(found) for found in models or ("digits",)))
    answered = [0]

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for data in requests:
            fake(made).streamed.append(oip.ModelInferRequest.FromString(data).id)
            for number in range(repeats):
                if answered[0] == breaks_after:
                    raise error or broken()
                answered[0] += 1
                yield answer(fake(made).streamed[-1], name, final=number == repeats - 1)

    fake(made).follow = follow
    return made


async def ask(
    endpoints: Sequence[Endpoint], requests: Sequence[bytes], *, window: int = 64, max_bytes: int = 1 << 20
) -> list[tuple[str, str, str]]:
    """Id, instance and error message of every answer."""
    gateway = Gateway(list(endpoints))
    method = StreamInfer(
        gateway.routes, gateway.dispatch, gateway.infer, gateway.texts, StreamSettings(window, max_bytes)
    )

    async def messages() -> AsyncIterator[bytes]:
        for data in requests:
            yield data

    found = []
    async with asyncio.timeout(10):
        async for data in method.stream(messages(), Call(STREAM_INFER, Deadline())):
            response = oip.ModelStreamInferResponse.FromString(data)
            found.append((response.infer_response.id, response.infer_response.model_version, response.error_message))
    await gateway.close()
    assert all(one.in_flight in (0, -10) for one in endpoints)
    return found


def first(made: Endpoint) -> Endpoint:
    """The endpoint that is picked first."""
    made.in_flight = -10
    return made


def writing(name: str, *, breaks_after: int = 0) -> tuple[Endpoint, "asyncio.Queue[str | None]"]:
    """An endpoint that writes the texts that its requests ask for side by side, a token when the test says so.

    Each id put into the queue sends one more token of that request's text; "ID." sends an empty last answer.
    """
    made = endpoint(name, model("words"))
    told: asyncio.Queue[str | None] = asyncio.Queue()

    async def follow(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        got = asyncio.Event()

        async def read() -> None:
            async for data in requests:
                fake(made).streamed.append(oip.ModelInferRequest.FromString(data).id)
                got.set()
            told.put_nowait(None)

        reading = asyncio.create_task(read())
        answered = 0
        try:
            while (sent := await told.get()) is not None:
                while sent.removesuffix(".") not in fake(made).streamed:
                    got.clear()
                    await got.wait()
                answered += 1
                yield answer(sent.removesuffix("."), name, final=sent.endswith("."))
                if answered == breaks_after:
                    raise broken()
        finally:
            reading.cancel()

    fake(made).follow = follow
    return made, told


class Writing:
    """One caller of texts by ModelStreamInfer."""

    def __init__(self, *endpoints: Endpoint, window: int = 64) -> None:
        self.gateway = Gateway(list(endpoints))
        method = StreamInfer(
            self.gateway.routes, self.gateway.dispatch, self.gateway.infer, self.gateway.texts, StreamSettings(window)
        )
        self.requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.answers = method.stream(self._messages(), Call(STREAM_INFER, Deadline()))

    async def _messages(self) -> AsyncIterator[bytes]:
        while (data := await self.requests.get()) is not None:
            yield data

    def ask(self, *ids: str) -> None:
        """Asks for one text for each id."""
        for request_id in ids:
            self.requests.put_nowait(request(request_id, "words"))

    async def next(self) -> tuple[str, bool | str]:
        """Id of the next answer, and whether it is the last one, or the error."""
        async with asyncio.timeout(5):
            response = oip.ModelStreamInferResponse.FromString(await anext(self.answers))
        final = response.infer_response.parameters["triton_final_response"].bool_param
        return response.infer_response.id, response.error_message or final

    async def end(self) -> None:
        """The caller has no more requests, and has every answer."""
        self.requests.put_nowait(None)
        async with asyncio.timeout(5):
            assert [data async for data in self.answers] == []
        await self.gateway.close()
