"""Admission: which texts are accepted, by how many wait and how long that takes."""

from services.kit.errors import DeadlineExpired, DeadlineUnreachable, InvalidField, Overloaded
from services.language.batch import Batch
from services.language.queue import WaitingTexts
from services.language.sequence import Sequence
from services.language.settings import GenerationSettings

WEIGHT = 0.1  # of the newest text in the moving average of how long a place is taken


class Admission:
    """For the event loop, but `ended`; it may be a step behind what the scheduler's thread does."""

    def __init__(self, batch: Batch, waiting: WaitingTexts, settings: GenerationSettings) -> None:
        self._batch, self._waiting, self._settings = batch, waiting, settings
        self.taken_s = 0.0  # how long a text has its place

    def ended(self, seconds: float) -> None:
        """A text was in work for so long."""
        self.taken_s += WEIGHT * (seconds - self.taken_s)

    def check(self, texts: list[Sequence], now: float) -> None:
        """Whether the texts of one request may wait.

        Raises:
            InvalidField: they are more than there are ever places for, to be written and to wait.
            Overloaded: too many wait already.
            DeadlineUnreachable: those that come first take longer than the time left.
            DeadlineExpired: no time is left.
        """
        in_work, waiting, more = list(self._batch.rows), len(self._waiting), len(texts)
        most = self._places(texts) + self._settings.max_queue
        if more > most:
            raise InvalidField(
                f"n is {more}, and this model takes {most} texts at a time on this instance",
                field="n",
                limit=str(most),
                value=str(more),
            )
        first = self._waiting.before(texts[0], now)
        places = self._places([*in_work, *first, *texts])
        without_place = len(in_work) + len(first) + more - places
        wait_s = max(0, without_place) * self.taken_s / max(places, len(in_work))
        if min(waiting + more, waiting - len(first) + without_place) > self._settings.max_queue:
            raise Overloaded(
                f"{waiting} texts wait for this model and the limit is {self._settings.max_queue}",
                retry_after_s=wait_s,
                limit=str(self._settings.max_queue),
                value=str(waiting),
            )
        if not in_work and not waiting:
            wait_s = 0.0  # an idle model tries: only a text can show that an estimate was too high
        self._check_deadline(texts[0], now, wait_s)

    def _check_deadline(self, text: Sequence, now: float, wait_s: float) -> None:
        remaining_s = text.deadline.at - now
        end_s = wait_s + self.taken_s if wait_s else 0.0  # with a free place it tries: only who waits is estimated
        if remaining_s <= 0:
            raise DeadlineExpired("the deadline passed before the text was queued", executed="no", stage="queue")
        if end_s > remaining_s:
            raise DeadlineUnreachable(
                f"a text would end in about {end_s * 1e3:.0f} ms and the deadline is in {remaining_s * 1e3:.0f} ms",
                retry_after_s=max(end_s, 0.001),
                limit_ms=f"{remaining_s * 1e3:.1f}",
                value_ms=f"{end_s * 1e3:.1f}",
            )

    def _places(self, texts: list[Sequence]) -> int:
        """How many of these can be in work at once; at least one."""
        return min(self._settings.max_texts, self._batch.places(texts))
