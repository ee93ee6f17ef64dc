"""Writing: the answers of one instance after the other to a request for texts, until every text has its end."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from google.rpc import code_pb2

from gateway.endpoint import Endpoint
from gateway.failures import found
from gateway.forwarder import single
from gateway.resume.continuation import Continuation
from gateway.routes import Pin
from services.kit.call import Call, Metadata
from services.kit.transport.upstream import CallFailed


class Unfinished(Protocol):
    """What one request for texts needs to go on at another instance, and what its caller has got."""

    @property
    def pin(self) -> Pin | None:
        """The bundle that has answered."""

    @property
    def begun(self) -> bool:
        """Whether the caller has got anything."""

    @property
    def complete(self) -> bool:
        """Whether the caller has got all of every text."""

    def request(self) -> bytes:
        """What the next attempt is asked for: what comes after all that the caller has got."""

    def answered(self, data: bytes, endpoint: Endpoint) -> bytes | None:
        """The answer as the caller gets it; None if it has got it before.

        Raises:
            CallFailed: it is none, or not the next one.
        """


async def answers(
    method: str, texts: Unfinished, tries: Continuation, call: Call, metadata: Metadata
) -> AsyncGenerator[bytes, None]:
    """Each answer once, in the order in which an unbroken call has them.

    Raises:
        Exception: the failure that stands.
    """
    while True:
        endpoint = await tries.pick()
        call.stage = "stream"
        trailers: list[tuple[str, str | bytes]] = []
        initial = None if texts.begun else call.initial
        stream = endpoint.upstream.stream(method, single(texts.request()), metadata, call.deadline, trailers, initial)
        try:
            async with aclosing(stream):
                async for data in stream:
                    answer = texts.answered(data, endpoint)
                    if texts.pin is not None:
                        tries.answered(endpoint, texts.pin)
                    if answer is not None:
                        tries.renew()
                        yield answer
            _check_complete(texts, endpoint)
        except CallFailed as failure:
            if texts.complete:
                tries.enough(endpoint, failure)
                return
            tries.failed(endpoint, failure)
        except BaseException:
            tries.left(endpoint)
            raise
        else:
            tries.succeeded(endpoint, trailers)
            return


def _check_complete(texts: Unfinished, endpoint: Endpoint) -> None:
    """Raises CallFailed where an instance has ended the stream well before every text has its end."""
    if not texts.complete:
        raise found(code_pb2.UNAVAILABLE, f"{endpoint.id} ended the stream before its texts")
