"""Channel: one connection to a server; messages go out, messages and trailing metadata come back."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from trivium.client.errors import TriviumCallError
from trivium.client.results import Trailers

R = TypeVar("R", bound=Message)
Metadata = Sequence[tuple[str, str | bytes]]


class Channel:
    """A connection that is made at the first call, and again by itself after it has broken."""

    def __init__(self, address: str, max_message_bytes: int, metadata: Metadata) -> None:
        self._metadata = tuple(metadata)
        self._channel = grpc.insecure_channel(address, options=_options(max_message_bytes))

    def unary(self, path: str, request: Message, response: type[R], timeout_s: float) -> tuple[R, Trailers]:
        """The response to one request, and its trailing metadata.

        Raises:
            TriviumCallError: the call did not succeed.
        """
        method = self._channel.unary_unary(path, _bytes, response.FromString)
        try:
            message, call = method.with_call(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise TriviumCallError.of(error) from None
        return message, _texts(call.trailing_metadata())

    def stream(self, path: str, requests: Iterator[Message], response: type[R], timeout_s: float | None) -> Iterator[R]:
        """The responses to a stream of requests, as they come.

        Raises:
            TriviumCallError: the stream ended with an error.
            Exception: what `requests` raised, after the responses to those before it.
        """
        method = self._channel.stream_stream(path, _bytes, response.FromString)
        source = _Source(requests)
        yield from _responses(method(source, timeout=timeout_s, metadata=self._metadata))
        if source.error is not None:
            raise source.error

    def unary_stream(
        self, path: str, request: Message, response: type[R], timeout_s: float | None
    ) -> Generator[R, None, None]:
        """The responses to one request, as they come. Closing the generator ends the call.

        Raises:
            TriviumCallError: the stream ended with an error.
        """
        method = self._channel.unary_stream(path, _bytes, response.FromString)
        yield from _responses(method(request, timeout=timeout_s, metadata=self._metadata))

    def close(self) -> None:
        """Ends the connection and the calls on it."""
        self._channel.close()


class _Source(Iterator[Message]):
    """The requests of one stream. An error in making one ends them; `error` then says which.

    gRPC iterates in a thread of its own, where an exception would be lost.
    """

    def __init__(self, requests: Iterator[Message]) -> None:
        self.error: Exception | None = None
        self._requests = requests

    def __next__(self) -> Message:
        try:
            return next(self._requests)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise StopIteration from None


def _responses(call: Any) -> Generator[Any, None, None]:
    """What the call brings; a reader that leaves before its end cancels it."""
    try:
        yield from call
    except grpc.RpcError as error:
        raise TriviumCallError.of(error) from None
    finally:
        call.cancel()


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()


def _texts(trailers: Sequence[tuple[str, str | bytes]] | None) -> Trailers:
    return {key: value for key, value in trailers or () if isinstance(value, str)}


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.enable_retries", 0),  # the gateway retries; retries of both would multiply
        ("grpc.enable_http_proxy", 0),  # a proxy of the environment is for the web, not for a server on this machine
        ("grpc.keepalive_time_ms", 10_000),  # a server that hangs is noticed during a long call
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
