"""Arrivals: when the calls of an open loop are to be sent, whatever becomes of those before."""

from random import Random


def poisson(rate_per_s: float, seconds: float, random: Random) -> tuple[float, ...]:
    """Instants in [0, seconds), rising, with exponential gaps: many callers who know nothing of each other."""
    instants: list[float] = []
    at = random.expovariate(rate_per_s)
    while at < seconds:
        instants.append(at)
        at += random.expovariate(rate_per_s)
    return tuple(instants)


def burst(calls: int) -> tuple[float, ...]:
    """All at once."""
    return (0.0,) * calls
