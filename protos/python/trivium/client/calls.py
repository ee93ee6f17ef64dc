"""Calls: what the calls of every domain share."""

from trivium.client.channel import Channel


class Calls:
    """A connection, and the seconds that a call on it may take unless it says otherwise."""

    timeout_s: float
    _channel: Channel

    def _limit(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else timeout_s
