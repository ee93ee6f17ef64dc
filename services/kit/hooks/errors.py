"""Errors: turns what a handler raised into the status that the caller sees."""

import structlog

from services.kit.call import Call
from services.kit.errors import TriviumError, UpstreamError, to_status
from services.kit.hooks.base import Hook


class Errors(Hook):
    """The one place where an exception becomes a status; tracebacks of our own faults go to the log."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._log = structlog.get_logger()

    def end(self, call: Call, error: BaseException | None) -> None:
        if error is None:
            return
        call.status = to_status(error, stage=call.stage, instance=self._instance)
        if not isinstance(error, TriviumError | UpstreamError):
            self._log.error("internal_error", method=call.method, stage=call.stage, exc_info=error)
