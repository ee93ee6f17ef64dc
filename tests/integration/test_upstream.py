"""Upstream over real connections: a call whose connection is cut has failed, and its task was not cancelled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from google.rpc import code_pb2

from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.transport.method import Method, raw
from services.kit.transport.server import GrpcServer, ServerLimits
from services.kit.transport.upstream import CallFailed, Upstream, UpstreamSettings

UNARY, STREAM = "/test.v1.TestService/Unary", "/test.v1.TestService/Stream"


class Hanging:
    """A server that answers "echo" and keeps every other call."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.server = GrpcServer(self.method, [], ServerLimits())

    def method(self, path: str) -> Method:
        if path == UNARY:
            return raw(path, self.unary, request_streaming=False, response_streaming=False)
        return raw(path, self.stream, request_streaming=True, response_streaming=True)

    async def unary(self, request: bytes, call: Call) -> bytes:
        if request != b"echo":
            self.entered.set()
            await asyncio.Event().wait()
        return request

    async def stream(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self.unary(request, call)


@pytest.fixture
async def hanging() -> AsyncIterator[Hanging]:
    made = Hanging()
    await made.server.start("127.0.0.1", 0)
    yield made
    await made.server.stop(0)


def connect(hanging: Hanging) -> Upstream:
    return Upstream(f"127.0.0.1:{hanging.server.port}", UpstreamSettings())


async def ask(upstream: Upstream, path: str, request: bytes) -> bytes:
    """The first answer."""
    if path == UNARY:
        return (await upstream.unary(path, request, (), Deadline.after(20))).message

    async def messages() -> AsyncIterator[bytes]:
        yield request

    async with contextlib.aclosing(upstream.stream(path, messages(), (), Deadline.after(20), [])) as answers:
        return await anext(answers)


@pytest.mark.parametrize("path", [UNARY, STREAM])
async def test_a_call_whose_connection_is_closed_under_it_has_failed(hanging: Hanging, path: str) -> None:
    upstream = connect(hanging)
    asking = asyncio.create_task(ask(upstream, path, b"hang"))
    await asyncio.wait_for(hanging.entered.wait(), 10)
    await upstream.close()
    with pytest.raises(CallFailed) as caught:
        await asking
    assert (caught.value.status.code, caught.value.executed) == (code_pb2.CANCELLED, "unknown")


@pytest.mark.parametrize("path", [UNARY, STREAM])
async def test_a_task_that_is_cancelled_ends_its_call(hanging: Hanging, path: str) -> None:
    upstream = connect(hanging)
    asking = asyncio.create_task(ask(upstream, path, b"hang"))
    await asyncio.wait_for(hanging.entered.wait(), 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await upstream.close()


@pytest.mark.parametrize("path", [UNARY, STREAM])
async def test_a_closed_connection_sends_nothing(hanging: Hanging, path: str) -> None:
    upstream = connect(hanging)
    assert await ask(upstream, path, b"echo") == b"echo"
    await upstream.close()
    with pytest.raises(CallFailed, match="closed") as caught:
        await ask(upstream, path, b"echo")
    assert (caught.value.status.code, caught.value.executed) == (code_pb2.UNAVAILABLE, "no")


async def test_an_instance_that_nobody_reaches_was_sent_nothing(hanging: Hanging) -> None:
    upstream = connect(hanging)
    await hanging.server.stop(0)
    with pytest.raises(CallFailed) as caught:
        await ask(upstream, UNARY, b"echo")
    assert (caught.value.status.code, caught.value.executed) == (code_pb2.UNAVAILABLE, "no")
    assert not upstream.connected()
    await upstream.close()
