import time

import pytest

from services.kit.deadline import Deadline
from services.kit.errors import DeadlineExpired, DeadlineUnreachable, InvalidField, Overloaded
from services.language.admission import Admission
from services.language.batch import Batch
from services.language.queue import WaitingTexts
from services.language.sequence import Sequence
from services.language.settings import GenerationSettings
from tests.unit.language.fakes import FakeEncodedRuns, FakeRuns, batch
from tests.unit.language.scheduling import text

TAKEN_S = 10.0


class Door:
    """Texts take ten seconds."""

    def __init__(self, work: Batch, max_texts: int = 8, max_queue: int = 20) -> None:
        self.work, self.waiting = work, WaitingTexts(60)
        self.admission = Admission(work, self.waiting, GenerationSettings(max_texts=max_texts, max_queue=max_queue))
        self.admission.taken_s = TAKEN_S

    def wait(self, *texts: Sequence) -> None:
        for one in texts:
            one.submitted = time.monotonic()
        self.waiting.add(list(texts))

    def check(self, *texts: Sequence) -> None:
        self.admission.check(list(texts), time.monotonic())

    def needed_s(self, one: Sequence) -> float:
        """Until its end, as it says to one that has no time."""
        one.deadline = Deadline.after(1)
        with pytest.raises(DeadlineUnreachable) as refusal:
            self.check(one)
        assert refusal.value.retry_after_s is not None
        return refusal.value.retry_after_s


def short(**more: object) -> Sequence:
    return text([1], 3, **more)  # type: ignore[arg-type]


def long(**more: object) -> Sequence:
    return text([1] * 100, 28, **more)  # type: ignore[arg-type]


def test_with_a_place_and_memory_for_it_a_text_tries() -> None:
    door = Door(batch(FakeRuns(rows=2)))
    door.work.join(long())
    door.check(long(timeout_s=1))


def test_a_text_waits_for_memory_although_there_are_places() -> None:
    door = Door(batch(FakeRuns(rows=2)))
    for _ in range(2):
        door.work.join(long())
    assert door.needed_s(short()) == pytest.approx(TAKEN_S / 2 + TAKEN_S)
    with pytest.raises(DeadlineUnreachable):
        door.check(short(timeout_s=14))
    door.check(short(timeout_s=16))


def test_a_long_text_waits_until_as_many_short_ones_have_ended_as_it_needs_memory_of() -> None:
    door = Door(batch(FakeRuns(rows=2)))
    for _ in range(8):
        door.work.join(short())
    assert door.needed_s(short()) == pytest.approx(TAKEN_S / 8 + TAKEN_S)
    assert door.needed_s(long()) == pytest.approx(7 * TAKEN_S / 8 + TAKEN_S)


def test_a_text_waits_for_the_memory_of_sources_as_well() -> None:
    door = Door(batch(FakeEncodedRuns(sources=2 * 16)))
    for _ in range(2):
        door.work.join(short(source=[1] * 16))
    assert door.needed_s(short(source=[1])) == pytest.approx(TAKEN_S / 2 + TAKEN_S)


def test_who_is_refused_for_want_of_memory_learns_when_to_come_back() -> None:
    door = Door(batch(FakeRuns(rows=2)), max_queue=1)
    for _ in range(2):
        door.work.join(long())
    door.wait(long())
    with pytest.raises(Overloaded, match="1 texts wait for this model and the limit is 1") as refusal:
        door.check(long())
    assert refusal.value.retry_after_s == pytest.approx(2 * TAKEN_S / 2)


def test_more_texts_than_there_can_ever_be_are_no_matter_of_waiting() -> None:
    door = Door(batch(FakeRuns()), max_texts=2, max_queue=2)
    door.check(*(short() for _ in range(4)))
    with pytest.raises(InvalidField, match="n is 5, and this model takes 4 texts at a time") as refusal:
        door.check(*(short() for _ in range(5)))
    assert (refusal.value.metadata["field"], refusal.value.metadata["limit"]) == ("n", "4")
    assert refusal.value.retry_after_s is None


def test_texts_that_were_cancelled_while_they_waited_are_not_waited_for() -> None:
    door = Door(batch(FakeRuns()), max_texts=1)
    door.work.join(short())
    cancelled = [short() for _ in range(10)]
    door.wait(*cancelled)
    assert door.needed_s(short(priority=-1)) == pytest.approx(11 * TAKEN_S + TAKEN_S)
    for one in cancelled:
        door.waiting.remove(one)
    assert door.needed_s(short(priority=-1)) == pytest.approx(TAKEN_S + TAKEN_S)


def test_an_urgent_text_is_not_refused_for_those_that_it_comes_before() -> None:
    door = Door(batch(FakeRuns()), max_texts=1)
    door.work.join(short())
    door.wait(*(short() for _ in range(10)))
    door.check(short(timeout_s=21))
    with pytest.raises(DeadlineUnreachable):
        door.check(short(timeout_s=100))  # it comes after all of them
    door.check(short(timeout_s=25, priority=1))


def test_an_idle_model_tries_whatever_it_took_before() -> None:
    door = Door(batch(FakeRuns()), max_texts=2)
    door.check(*(short(timeout_s=1) for _ in range(8)))
    with pytest.raises(DeadlineExpired):
        door.check(short(timeout_s=-1))


def test_what_a_text_took_moves_the_estimate() -> None:
    door = Door(batch(FakeRuns()))
    door.admission.taken_s = 0.0
    for _ in range(100):
        door.admission.ended(4.0)
    assert door.admission.taken_s == pytest.approx(4.0, rel=0.001)
