"""Identify: every answer, good or bad, says which instance gave it."""

from services.kit.call import Call
from services.kit.hooks.base import Hook

TRAILER = "trivium-instance"


class Identify(Hook):
    """Adds the instance to the trailing metadata, unless the answer comes from another one and says so itself."""

    def __init__(self, instance: str) -> None:
        self._trailer = (TRAILER, instance)

    def end(self, call: Call, error: BaseException | None) -> None:
        if all(key != TRAILER for key, _ in call.trailers):
            call.trailers.append(self._trailer)
