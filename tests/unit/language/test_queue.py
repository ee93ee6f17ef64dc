import math

from services.kit.deadline import Deadline
from services.language.queue import WaitingTexts
from services.language.sequence import Sequence
from tests.unit.language.scheduling import text


def arrived(at: float, deadline: float = math.inf, priority: int = 0) -> Sequence:
    one = text([1], priority=priority)
    one.submitted, one.deadline = at, Deadline(deadline)
    return one


def order(*texts: Sequence, patience_s: float = 60) -> list[int]:
    waiting = WaitingTexts(patience_s)
    waiting.add(list(texts))
    found = []
    while (first := waiting.first()) is not None:
        found.append(texts.index(first))
        waiting.remove(first)
    return found


def test_priority_comes_first_then_the_deadline_then_the_arrival() -> None:
    assert order(arrived(1, 50), arrived(0, 50), arrived(2, 40), arrived(3, 90, priority=1)) == [3, 2, 1, 0]


def test_texts_of_one_request_keep_their_order() -> None:
    assert order(arrived(0), arrived(0), arrived(0)) == [0, 1, 2]


def test_a_text_without_a_deadline_waits_as_if_it_had_the_time_that_patience_gives() -> None:
    patient = arrived(0)
    assert order(patient, arrived(5, 59), arrived(5, 61), arrived(70, 71)) == [1, 0, 2, 3]


def test_a_late_deadline_does_not_let_a_text_wait_for_longer_than_none() -> None:
    assert order(arrived(1, 3600), arrived(2), arrived(62, 3600)) == [0, 1, 2]


def test_those_that_come_before_a_text_are_known() -> None:
    waiting = WaitingTexts(60)
    texts = [arrived(0, 10), arrived(0, 30), arrived(0), arrived(1, 5, priority=-1)]
    waiting.add(texts)
    assert waiting.before(arrived(0, 20), now=2) == texts[:1]
    assert waiting.before(arrived(0), now=2) == texts[:3]
    assert waiting.before(arrived(0, priority=1), now=2) == []
    assert waiting.before(arrived(0, priority=-2), now=2) == texts


def test_those_whose_deadline_has_passed_are_taken_out_at_once() -> None:
    waiting = WaitingTexts(60)
    texts = [arrived(0, 10), arrived(0, 30), arrived(0), arrived(0, 20, priority=5)]
    waiting.add(texts)
    assert waiting.expired(9.9) == []
    assert waiting.expired(20) == [texts[3], texts[0]]
    waiting.remove(texts[1])
    assert waiting.expired(31) == []
    waiting.add([late := arrived(31, 32)])
    assert waiting.expired(33) == [late]
    assert waiting.first() is texts[2]


def test_a_text_is_taken_out_once() -> None:
    waiting = WaitingTexts(60)
    waiting.add([one := arrived(0)])
    assert (waiting.remove(one), waiting.remove(one), len(waiting)) == (True, False, 0)
