"""Client: typed calls to a Trivium gateway, or to one service directly."""

import os
from types import TracebackType

from trivium.client.channel import Channel, Metadata, seconds
from trivium.client.language_calls import LanguageCalls
from trivium.client.model_calls import ModelCalls
from trivium.client.sequence_calls import SequenceCalls
from trivium.client.vision_calls import VisionCalls

DEFAULT_ADDRESS = "localhost:8001"


class Client(VisionCalls, SequenceCalls, LanguageCalls, ModelCalls):
    """A connection to a server, and its methods as typed calls. Safe to share between threads.

    No call is repeated: the gateway retries what may be retried. Every call raises TriviumCallError where it does not
    succeed: its `code` and `reason` say why, its `unreachable` that no server answered.

    Args:
        address: "host:port"; the environment's TRIVIUM_ADDRESS if not given, else localhost:8001.
        timeout_s: seconds that a call may take in all, unless the call says otherwise. It bounds neither streams,
            `generate` and what is made of it among them, nor `load` and `unload`, which have 150 s. Here and in every
            call it is more than 0; math.inf is no limit.
        max_message_bytes: largest message to send and to receive.
        metadata: sent with every call; keys in lower case.

    Raises:
        ValueError: the address is not "host:port" (nor "unix:PATH"), or the timeout is not more than 0.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout_s: float = 10.0,
        max_message_bytes: int = 64 * 1024 * 1024,
        metadata: Metadata = (),
    ) -> None:
        self.address = address or os.environ.get("TRIVIUM_ADDRESS") or DEFAULT_ADDRESS
        if not _is_target(self.address):
            raise ValueError(f"the address is host:port, such as {DEFAULT_ADDRESS}, not {self.address!r}")
        seconds(timeout_s)
        self.timeout_s = timeout_s
        self._channel = Channel(self.address, max_message_bytes, metadata)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and the calls on it."""
        self._channel.close()


def _is_target(address: str) -> bool:
    """Whether the address names a port, or a socket in the file system; what grpc would take it for otherwise is some
    other port."""
    if "://" in address:
        return False
    host, _, port = address.rpartition(":")
    return address.startswith("unix:") or (host != "" and port.isdecimal() and 0 < int(port) < 2**16)
