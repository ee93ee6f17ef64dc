"""Outcome: what became of the calls of one load."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.spread import percentile

OK, WRONG = "OK", "WRONG_ANSWER"


@dataclass(frozen=True, slots=True)
class Record:
    """One call; instants of the generator's monotonic clock, in seconds."""

    intended: float  # when it was to be sent
    sent: float
    ended: float
    status: str  # the gRPC code's name, or WRONG_ANSWER for a call that ended OK


@dataclass(frozen=True, slots=True)
class Outcome:
    """The calls of one load, counted."""

    sent: int  # all, those before and after the window too
    statuses: Mapping[str, int]  # of all calls
    window_s: float
    ok: int  # right answers within the window
    latencies_s: tuple[float, ...]  # of those; from the instant at which the call was to be sent
    sending_s: float  # from the first to the last sending
    lag_p99_s: float  # how much later than intended calls were sent: what the generator itself adds
    cpu_s: float  # of the generator
    examples: Mapping[str, str]  # of failures: the first one's message, by status

    @property
    def ok_per_s(self) -> float:
        """Right answers a second."""
        return self.ok / self.window_s

    @property
    def sent_per_s(self) -> float:
        """The rate at which calls were really sent."""
        return (self.sent - 1) / self.sending_s if self.sending_s else 0.0

    @property
    def failures(self) -> Mapping[str, int]:
        """Calls that did not end well, by status."""
        return {status: count for status, count in self.statuses.items() if status != OK}

    def latency_ms(self, share: float) -> float:
        """The percentile of the latencies, in milliseconds."""
        return percentile(self.latencies_s, share) * 1e3


def outcome(records: Sequence[Record], begin: float, end: float, cpu_s: float, examples: Mapping[str, str]) -> Outcome:
    """Counts the records; right answers that came in (begin, end] count as throughput."""
    counted = [record for record in records if record.status == OK and begin < record.ended <= end]
    sendings = [record.sent for record in records]
    return Outcome(
        sent=len(records),
        statuses=dict(Counter(record.status for record in records)),
        window_s=end - begin,
        ok=len(counted),
        latencies_s=tuple(record.ended - record.intended for record in counted),
        sending_s=max(sendings) - min(sendings) if sendings else 0.0,
        lag_p99_s=percentile([record.sent - record.intended for record in records], 0.99),
        cpu_s=cpu_s,
        examples=dict(examples),
    )
