"""The balancer prefers the less busy of two, and endpoints that are not ejected."""

from collections import Counter
from random import Random

from gateway.balancer import candidates, pick, streams
from tests.unit.gateway.fakes import endpoint


def test_the_busiest_of_three_gets_nothing_but_what_chance_leaves_it() -> None:
    busy, idle, other = endpoint("busy"), endpoint("idle"), endpoint("other")
    busy.in_flight = 10
    rng = Random(1)
    picked = Counter(pick([busy, idle, other], rng).id for _ in range(3000))
    assert picked["busy"] == 0
    assert min(picked["idle"], picked["other"]) > 1000


def test_two_are_always_compared() -> None:
    busy, idle = endpoint("busy"), endpoint("idle")
    busy.in_flight = 1
    assert {pick([busy, idle], Random(seed)).id for seed in range(50)} == {"idle"}


def test_equally_busy_ones_share_the_calls() -> None:
    rng, endpoints = Random(2), [endpoint(str(number)) for number in range(4)]
    picked = Counter(pick(endpoints, rng).id for _ in range(4000))
    assert all(800 < count < 1200 for count in picked.values())


def test_one_is_picked_without_a_choice() -> None:
    only = endpoint()
    assert pick([only], Random(0)) is only


def test_ejected_ones_are_left_out() -> None:
    good, bad = endpoint("good"), endpoint("bad")
    bad.ejected = True
    assert list(candidates([bad, good], ())) == [good]


def test_a_first_attempt_goes_to_ejected_ones_rather_than_nowhere() -> None:
    bad = endpoint("bad")
    bad.ejected = True
    assert list(candidates([bad], ())) == [bad]


def test_a_further_attempt_goes_to_none_that_was_tried_and_to_none_that_is_ejected() -> None:
    tried, bad, fresh = endpoint("tried"), endpoint("bad"), endpoint("fresh")
    bad.ejected = True
    assert list(candidates([tried, bad, fresh], [tried])) == [fresh]
    assert list(candidates([tried, bad], [tried])) == []


def test_live_streams_do_not_make_an_instance_busy_for_calls() -> None:
    many, few = endpoint("many"), endpoint("few")
    many.in_flight, many.streams = 1000, 1000
    few.in_flight = 1
    rng = Random(1)
    assert {pick([many, few], rng).id for _ in range(20)} == {"many"}
    assert {pick([many, few], rng, streams).id for _ in range(20)} == {"few"}
