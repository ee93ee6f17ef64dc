"""Breaks: the instances that broke lately, for a request to be compared with that was at some of them."""

import asyncio
from collections import deque
from collections.abc import Mapping

from gateway.endpoint import Endpoint

KEPT = 256


class Breaks:
    """Those under which a connection broke; what instances answer is not among it."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, Endpoint]] = deque(maxlen=KEPT)
        self.count = 0  # so far
        self.another = asyncio.Event()  # set at the next one, when another event takes its place

    def note(self, endpoint: Endpoint) -> None:
        """The endpoint broke."""
        self.count += 1
        self._recent.append((self.count, endpoint))
        another, self.another = self.another, asyncio.Event()
        another.set()

    def since(self, count: int, service: str, without: Mapping[Endpoint, int]) -> int:
        """How many endpoints of the service broke after the first `count` breaks.

        Args:
            without: endpoints whose breaks up to a certain one do not count.
        """
        return sum(
            number > max(count, without.get(endpoint, 0)) and endpoint.service == service
            for number, endpoint in self._recent
        )
