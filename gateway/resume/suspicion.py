"""Suspicion: whether a request is what breaks the instances that it is sent to."""

from gateway.breaks import Breaks
from gateway.endpoint import Endpoint


class Suspicion:
    """Compares the instances that broke with a request to those that broke without it.

    A request that breaks whatever computes it is at every instance that breaks; one that has bad luck, because it waits
    for its turn where instances die, is not. So each one that breaks elsewhere makes up for one that broke with it, and
    a calm that may have come by chance makes up for one, once; as many as the limit at most, since two that break their
    instances would make up for each other for ever.

    Args:
        limit: instances in a row that may break or fail with the request, and none without it.
    """

    def __init__(self, breaks: Breaks, limit: int) -> None:
        self._breaks, self._limit = breaks, limit
        self.clear()

    def clear(self) -> None:
        """The request was answered, or some of it."""
        self._with = self._faults = 0  # instances that broke with the request, and failed at it
        self.reprieved = False
        self._broken: dict[Endpoint, int] = {}  # with the breaks there were then
        self._before = 0  # breaks up to the first one with the request

    def broke(self, endpoint: Endpoint) -> None:
        """The endpoint broke with the request, which has been noted among the breaks."""
        if not self._with:
            self._before = self._breaks.count
        self._with += 1
        self._broken[endpoint] = self._breaks.count

    def failed(self) -> None:
        """An instance failed at it."""
        self._faults += 1

    def reprieve(self) -> None:
        """It was held back, and nothing broke: it, or the end of what broke them all. One more attempt tells."""
        self.reprieved = True

    @property
    def grave(self) -> bool:
        """Whether the request must not be sent to another instance now."""
        made_up = min(self._with, self._limit, self._without() + self.reprieved)
        return self._faults + self._with - made_up >= self._limit

    @property
    def final(self) -> bool:
        """Whether nothing can make up for it."""
        return self._faults + self._with - min(self._with, self._limit) >= self._limit

    def _without(self) -> int:
        """Instances of the same service that broke elsewhere since the first one with the request."""
        service = next((endpoint.service for endpoint in self._broken), "")
        return self._breaks.since(self._before, service, self._broken)
