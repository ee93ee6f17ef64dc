"""Channel: one connection to a server; messages go out, messages and trailing metadata come back."""

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any, SupportsFloat, TypeVar

import grpc
from google.protobuf.message import Message

from trivium.client.errors import TriviumCallError
from trivium.client.prompts import real
from trivium.client.results import Trailers

R = TypeVar("R", bound=Message)
Metadata = Sequence[tuple[str, str | bytes]]
LONGEST_S = 1e9  # 31 years; gRPC takes a deadline that 64 bits of ns cannot say for one that has passed


class Channel:
    """A connection that is made at the first call, and again by itself after it has broken."""

    def __init__(self, address: str, max_message_bytes: int, metadata: Metadata) -> None:
        self._metadata = tuple(metadata)
        self._channel = grpc.insecure_channel(address, options=_options(max_message_bytes))

    def unary(self, path: str, request: Message, response: type[R], timeout_s: float | None) -> tuple[R, Trailers]:
        """The response to one request, and its trailing metadata.

        Raises:
            TriviumCallError: the call did not succeed.
            TypeError, ValueError: the timeout is none.
        """
        limit = seconds(timeout_s)
        method = self._channel.unary_unary(path, _bytes, response.FromString)
        try:
            message, call = method.with_call(request, timeout=limit, metadata=self._metadata)
        except grpc.RpcError as error:
            raise TriviumCallError.of(error) from None
        return message, _texts(call.trailing_metadata())

    def stream(self, path: str, requests: Iterator[Message], response: type[R], timeout_s: float | None) -> Iterator[R]:
        """The responses to a stream of requests, as they come.

        Raises:
            TriviumCallError: the stream ended with an error.
            TypeError, ValueError: the timeout is none; raised at once.
            Exception: what `requests` raised, after the responses to those before it.
        """
        method = self._channel.stream_stream(path, _bytes, response.FromString)
        return self._stream(method, requests, seconds(timeout_s))

    def unary_stream(
        self, path: str, request: Message, response: type[R], timeout_s: float | None
    ) -> Generator[R, None, None]:
        """The responses to one request, as they come. Closing the generator ends the call.

        Raises:
            TriviumCallError: the stream ended with an error.
            TypeError, ValueError: the timeout is none; raised at once.
        """
        method = self._channel.unary_stream(path, _bytes, response.FromString)
        return self._unary_stream(method, request, seconds(timeout_s))

    def close(self) -> None:
        """Ends the connection and the calls on it."""
        self._channel.close()

    def _stream(self, method: Any, requests: Iterator[Message], limit: float | None) -> Generator[Any, None, None]:
        source = _Source(requests)
        yield from _responses(method(source, timeout=limit, metadata=self._metadata))
        if source.error is not None:
            raise source.error

    def _unary_stream(self, method: Any, request: Message, limit: float | None) -> Generator[Any, None, None]:
        yield from _responses(method(request, timeout=limit, metadata=self._metadata))


def seconds(timeout_s: SupportsFloat | None) -> float | None:
    """The timeout as gRPC takes it: at most what it can say, None for no limit.

    Args:
        timeout_s: None and infinity are no limit.

    Raises:
        TypeError: it is no number.
        ValueError: it is not more than 0.
    """
    limit = real("timeout_s", timeout_s)
    if limit is None or limit == math.inf:
        return None
    if not limit > 0:  # not a number isn't either
        raise ValueError(f"the timeout is more than 0 s, not {limit:g}")
    return min(limit, LONGEST_S)


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
