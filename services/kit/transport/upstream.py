"""Upstream: one connection to one instance; bytes go out, bytes and a status come back.

Source of the text that tells a call that was never sent: gRPC Core's pick_first load balancing policy.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from services.kit.background import told_to_end
from services.kit.call import Metadata
from services.kit.deadline import Deadline
from services.kit.errors import UpstreamError, error_info
from services.kit.settings import setting
from services.kit.transport.server import DETAILS_KEY

NEVER_SENT = "failed to connect to all addresses"
MAX_CACHED = 1000  # methods of one connection; callers make paths up


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """How a connection to an instance is kept."""

    max_message_bytes: int = setting(64 * 1024 * 1024, low=1024, high=2**31 - 1)
    connect_timeout_s: float = setting(1.0, low=0.1, high=60)
    # A ping after this much silence finds an instance that hangs; instances permit one every 10 s.
    keepalive_s: float = setting(10.0, low=10, high=3600)
    keepalive_timeout_s: float = setting(5.0, low=0.1, high=60)


@dataclass(frozen=True, slots=True)
class Reply:
    """What an instance answered."""

    message: bytes
    initial_metadata: Metadata
    trailers: Metadata


class CallFailed(UpstreamError):
    """An attempt that ended with a status other than OK.

    `executed` is "no" if the instance never worked on it, "yes" if it did, "unknown" if nobody can tell.
    """

    def __init__(self, status: status_pb2.Status, trailers: Metadata, executed: str) -> None:
        super().__init__(status)
        self.trailers, self.executed = trailers, executed


class Upstream:
    """A connection to one instance. It dials on its own, again and again, until it is closed."""

    def __init__(self, target: str, settings: UpstreamSettings) -> None:
        self.target = target
        self._channel = grpc.aio.insecure_channel(target, options=_options(settings))
        self._unary: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._stream: dict[str, grpc.aio.StreamStreamMultiCallable[bytes, bytes]] = {}
        self._closed = False

    async def unary(self, path: str, request: bytes, metadata: Metadata, deadline: Deadline) -> Reply:
        """The reply to one message.

        Raises:
            CallFailed: the call ended with a status other than OK.
        """
        self._check_open()
        method = self._unary.get(path)
        if method is None:
            method = self._channel.unary_unary(path)
            if len(self._unary) < MAX_CACHED:
                self._unary[path] = method
        call = method(request, timeout=deadline.timeout_s(), metadata=metadata)
        try:
            message = await call
            return Reply(message, tuple(await call.initial_metadata()), tuple(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from None
        except asyncio.CancelledError:
            if told_to_end():
                raise
            raise _cut_off() from None

    async def stream(
        self,
        path: str,
        requests: AsyncIterator[bytes],
        metadata: Metadata,
        deadline: Deadline,
        trailers: list[tuple[str, str | bytes]],
        initial: list[tuple[str, str | bytes]] | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Each message that the instance sends.

        Its initial metadata is added to `initial` before the first message, its trailing metadata to `trailers` at the
        end.

        Raises:
            CallFailed: the call ended with a status other than OK.
        """
        self._check_open()
        method = self._stream.get(path)
        if method is None:
            method = self._channel.stream_stream(path)
            if len(self._stream) < MAX_CACHED:
                self._stream[path] = method
        call: Any = method(requests, timeout=deadline.timeout_s(), metadata=metadata)
        _keep_status(call)
        try:
            async for message in call:
                if initial is not None:
                    initial.extend(tuple(await call.initial_metadata()))
                    initial = None
                yield message
            trailers.extend(tuple(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from None
        except asyncio.CancelledError:
            if told_to_end():
                raise
            raise _cut_off() from None
        finally:
            call.cancel()
            del call._write  # with it the call would hold itself, and its connection

    def connected(self) -> bool:
        """Whether the connection stands now."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def close(self) -> None:
        """Ends the connection; calls in flight are cut off."""
        self._closed = True
        with contextlib.suppress(asyncio.CancelledError):
            await self._channel.close()

    def _check_open(self) -> None:
        if self._closed:
            raise CallFailed(status_pb2.Status(code=code_pb2.UNAVAILABLE, message="the connection is closed"), (), "no")


def _keep_status(call: Any) -> None:
    """Lets a write that fails wait for the status of its call.

    An instance may end a stream while it is still written to. grpc.aio (1.85.1) then puts INTERNAL, "Internal error
    from Core", in the place of the status that is on its way; there is no public way to tell it not to.
    """

    async def write(message: bytes) -> None:
        await call._metadata_sent.wait()
        if not call.done():
            with contextlib.suppress(grpc.aio.InternalError):
                await call._cython_call.send_serialized_message(message)
                return
        await call._raise_for_status()  # waits for it

    call._write = write  # of the task that consumes the requests, which begins after this one waits


def _cut_off() -> CallFailed:
    """The failure of a call that was not cancelled by whoever waits for it: its connection was closed under it."""
    return CallFailed(status_pb2.Status(code=code_pb2.CANCELLED, message="the call was cut off"), (), "unknown")


def _failure(error: grpc.aio.AioRpcError) -> CallFailed:
    trailers = tuple(error.trailing_metadata() or ())
    status = _status(error, trailers)
    info = error_info(status)
    never_sent = not status.details and status.code == code_pb2.UNAVAILABLE and status.message.startswith(NEVER_SENT)
    executed = "no" if never_sent else (info.metadata.get("executed", "unknown") if info else "unknown")
    return CallFailed(status, tuple(pair for pair in trailers if pair[0] != DETAILS_KEY), executed)


def _status(error: grpc.aio.AioRpcError, trailers: Metadata) -> status_pb2.Status:
    """The rich status that the instance sent, or one made of code and message."""
    plain = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    for key, value in trailers:
        if key == DETAILS_KEY and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                rich = status_pb2.Status.FromString(value)
                if rich.code == plain.code:
                    return rich
    return plain


def _options(settings: UpstreamSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 32 * 1024),
        ("grpc.absolute_max_metadata_size", 64 * 1024),
        ("grpc.enable_retries", 0),  # only the gateway retries, and by its own rule
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", int(settings.connect_timeout_s * 1e3)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.keepalive_time_ms", int(settings.keepalive_s * 1e3)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_s * 1e3)),
        # Without it an instance that hangs was found after the default of a minute and not after keepalive's limit.
        ("grpc.http2.ping_timeout_ms", int(settings.keepalive_timeout_s * 1e3)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
    ]
