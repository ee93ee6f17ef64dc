"""Runs that begin while the one before is under way: how many there are, and what they are given."""

from collections import deque

import numpy as np
import pytest

from services.language.engine.drawn import Drawn
from services.language.multi_step import MultiStep
from services.language.sampling import Sampling
from tests.unit.language.scheduling import text, times

NOTHING = np.zeros((1, 1))


class Counting:
    """Each run draws the number of it."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.begun = 1
        self.most_under_way = 0
        self.uniform: list[list[float]] = []
        self._under_way = deque[int]()

    def begin(self, uniform: object = ()) -> None:
        assert isinstance(uniform, list)
        self.uniform.append(uniform)
        self.begun += 1
        self._under_way.append(self.begun)
        self.most_under_way = max(self.most_under_way, len(self._under_way))

    def ended(self) -> Drawn:
        return _drew(self._under_way.popleft())


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("most", [2, 3, 9])
def test_as_many_runs_follow_as_there_may_be(ahead: int, most: int) -> None:
    runs = Counting(ahead)
    drawn = [one.tokens for one in MultiStep([text([1], 20)], most, lambda: True).drawn(_drew(1), runs)]
    assert drawn == [[number] for number in range(1, most + 1)]
    assert runs.most_under_way == min(ahead, most - 1)


@pytest.mark.parametrize(("ahead", "last"), [(1, 5), (2, 6)])
def test_a_row_ends_with_a_token_that_ends_a_text_and_what_has_begun_then(ahead: int, last: int) -> None:
    one = text([1], 20, sampling=Sampling(stop_token_ids=frozenset({5})))
    runs = Counting(ahead)
    assert [drawn.tokens[0] for drawn in MultiStep([one], 9, lambda: True).drawn(_drew(1), runs)][-1] == last
    assert runs.begun == last


@pytest.mark.parametrize(("ahead", "last"), [(1, 4), (2, 5)])
def test_a_row_ends_when_it_may_not_go_on_and_what_has_begun_counts(ahead: int, last: int) -> None:
    runs = Counting(ahead)
    made = [drawn.tokens[0] for drawn in MultiStep([text([1], 20)], 9, times(4)).drawn(_drew(1), runs)]
    assert made == list(range(1, last + 1))


@pytest.mark.parametrize("ahead", [1, 2])
def test_each_run_gets_the_draws_of_its_place(ahead: int) -> None:
    one, runs = text([1], 20, sampling=Sampling(temperature=1.0, seed=3)), Counting(ahead)
    list(MultiStep([one], 5, lambda: True).drawn(_drew(1), runs))
    assert runs.uniform == [[one.draw(number)] for number in range(1, 5)]


def _drew(number: int) -> Drawn:
    return Drawn([number], [0.0], NOTHING, NOTHING)
