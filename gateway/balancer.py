"""Picks one endpoint of a route: the less busy of two random ones."""

from collections.abc import Callable, Collection, Sequence
from random import Random

from gateway.endpoint import Endpoint


def calls(endpoint: Endpoint) -> int:
    """Calls in flight, without the live streams: those are mostly silent."""
    return endpoint.in_flight - endpoint.streams


def streams(endpoint: Endpoint) -> int:
    """Live streams."""
    return endpoint.streams


def pick(endpoints: Sequence[Endpoint], rng: Random, load: Callable[[Endpoint], int] = calls) -> Endpoint:
    """The less busy of two random endpoints; at least one is given. Source: Mitzenmacher, IEEE TPDS 12(10), 2001."""
    count = len(endpoints)
    if count == 1:
        return endpoints[0]
    first = int(rng.random() * count)
    second = (first + 1 + int(rng.random() * (count - 1))) % count
    one, other = endpoints[first], endpoints[second]
    return one if load(one) <= load(other) else other


def candidates(endpoints: Sequence[Endpoint], tried: Collection[Endpoint]) -> Sequence[Endpoint]:
    """The endpoints that an attempt may use, perhaps none.

    Those that were not tried and are not ejected; for a first attempt all of them if every one is ejected, since a
    call that may fail is better than one that must.
    """
    found = [endpoint for endpoint in endpoints if not endpoint.ejected]
    if tried:
        return [endpoint for endpoint in found if endpoint not in tried]
    return found or endpoints
