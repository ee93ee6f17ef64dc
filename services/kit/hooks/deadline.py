"""Deadlines: a call that has no time left is refused before anything is spent on it."""

from services.kit.call import Call
from services.kit.errors import DeadlineExpired
from services.kit.hooks.base import Hook


class Deadlines(Hook):
    """Refuses what has expired. The transport ends calls whose deadline passes while they run."""

    def start(self, call: Call) -> None:
        if call.deadline.expired():
            raise DeadlineExpired("the deadline had passed before the call was looked at", executed="no")
