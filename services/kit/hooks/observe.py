"""Observe: the metrics and the one log line of every call."""

import time
from collections.abc import Callable
from typing import Literal

import structlog
from google.rpc import code_pb2
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.kit.call import Call
from services.kit.errors import error_info
from services.kit.hooks.base import Hook

PROBES = "/grpc."  # health and reflection: asked every second, and no news while they succeed
CallLog = Literal["all", "failed", "none"]

# Seconds; from a tiny model on a fast machine to a long generation.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# Failures that an operator has to look at; the others are the caller's or expected under load.
OURS = frozenset({code_pb2.INTERNAL, code_pb2.UNKNOWN, code_pb2.DATA_LOSS})


class Observe(Hook):
    """Counts calls by method, code and reason, times them and their stages, and logs one line for each."""

    def __init__(self, registry: CollectorRegistry, log_calls: CallLog) -> None:
        self._log_calls = log_calls
        self._log = structlog.get_logger()
        self._calls = Counter("trivium_calls", "Calls that ended.", ("method", "code", "reason"), registry=registry)
        self._seconds = Histogram(
            "trivium_call_seconds", "Time from acceptance to status.", ("method",), buckets=BUCKETS, registry=registry
        )
        self._stage_seconds = Histogram(
            "trivium_stage_seconds",
            "Time that a call spent in one stage.",
            ("method", "stage"),
            buckets=BUCKETS,
            registry=registry,
        )
        # Looking a metric up by its labels costs more than counting it. Methods, codes, reasons and stages are few.
        self._counters: dict[tuple[str, str, str], Callable[[], None]] = {}
        self._timers: dict[tuple[str, str], Callable[[float], None]] = {}
        self._in_flight = Gauge("trivium_calls_in_flight", "Calls accepted and not ended.", registry=registry)

    def start(self, call: Call) -> None:
        self._in_flight.inc()

    def end(self, call: Call, error: BaseException | None) -> None:
        self._in_flight.dec()
        seconds = time.monotonic() - call.started
        code, reason = _outcome(call)
        self._count(call.method, code, reason)
        self._time(call.method, "", seconds)
        for stage, spent in call.stages.items():
            self._time(call.method, stage, spent)
        if self._is_logged(call):
            self._write(call, code, reason, seconds)

    def _count(self, method: str, code: str, reason: str) -> None:
        key = (method, code, reason)
        increment = self._counters.get(key)
        if increment is None:
            increment = self._counters[key] = self._calls.labels(*key).inc
        increment()

    def _time(self, method: str, stage: str, seconds: float) -> None:
        """Of the whole call where `stage` is empty."""
        observe = self._timers.get((method, stage))
        if observe is None:
            metric = self._stage_seconds.labels(method, stage) if stage else self._seconds.labels(method)
            observe = self._timers[method, stage] = metric.observe
        observe(seconds)

    def _is_logged(self, call: Call) -> bool:
        if call.status is not None:
            return self._log_calls != "none"
        return self._log_calls == "all" and not call.method.startswith(PROBES)

    def _write(self, call: Call, code: str, reason: str, seconds: float) -> None:
        ours = call.status is not None and call.status.code in OURS
        log = self._log.error if ours else self._log.info
        message = {} if call.status is None else {"reason": reason, "stage": call.stage, "message": call.status.message}
        log("call", method=call.method, code=code, ms=round(seconds * 1e3, 3), **call.fields, **message)


def _outcome(call: Call) -> tuple[str, str]:
    """The code's name and the reason ("" where there is none)."""
    if call.status is None:
        return "OK", ""
    info = error_info(call.status)
    return code_pb2.Code.Name(call.status.code), info.reason if info else ""
