"""Effort: how long and how often everything is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """The size of one run of the benchmark."""

    rounds: int  # everything once per round, in turns; the median of the rounds counts
    concurrencies: tuple[int, ...]  # calls that a closed loop keeps in flight
    warm_up_s: float  # before each closed loop, unmeasured
    closed_s: float  # shortest closed loop
    turns: float  # and each of its callers has at least so many turns: a slow model takes longer
    ceiling_s: float  # of the bare engine
    open_s: float  # shortest open loop
    open_calls: int  # and it has at least so many calls
    overload_s: float


CONCURRENCIES = (1, 8, 32)
FULL = Effort(
    rounds=3,
    concurrencies=CONCURRENCIES,
    warm_up_s=0.3,
    closed_s=1.5,
    turns=3,
    ceiling_s=1.0,
    open_s=3.0,
    open_calls=100,
    overload_s=3.0,
)
QUICK = Effort(
    rounds=1,
    concurrencies=CONCURRENCIES,
    warm_up_s=0.1,
    closed_s=0.6,
    turns=1,
    ceiling_s=0.4,
    open_s=1.0,
    open_calls=20,
    overload_s=1.0,
)
