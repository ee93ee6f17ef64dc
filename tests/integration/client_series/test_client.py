"""Series with the SDK, from a server whose answers the tests can tell."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.sequence_server import BAD, STATE, SequenceServer
from trivium.client import Client, TriviumCallError


def test_a_whole_series_is_classified_and_continued(client: Client, server: SequenceServer) -> None:
    answer = client.classify_series([[1], [2]], "parity@stable", top_k=2)
    assert (answer.label, answer.model, answer.version, len(answer.classes)) == ("odd", "parity", 1, 2)
    continued = client.forecast((value for value in (1, 2)), 2, "sum")
    assert (continued.values, continued.model) == ((4.0, 5.0), "sum")
    assert client.forecast([1]).values == (2.0, 3.0, 4.0)
    first, second, third = server.requests
    assert (first.model, list(first.values), first.top_k) == ("parity@stable", [1.0, 2.0], 2)
    assert (second.model, second.horizon, third.model, third.HasField("horizon")) == ("sum", 2, "", False)


def test_every_step_of_a_stream_is_answered_in_order(client: Client, server: SequenceServer) -> None:
    answers = list(client.track([1, [2, 3], [[4], [5]]], "sum"))
    assert [(answer.step, answer.values[0]) for answer in answers] == [(1, 2), (2, 4), (3, 7), (4, 11), (5, 16)]
    assert {answer.model for answer in answers} == {"sum:1"}
    assert {answer.state for answer in answers} == {b""}
    opening, *others = server.requests
    assert (opening.model, list(opening.values)) == ("sum", [])
    assert [list(request.values) for request in others] == [[1], [2, 3], [4, 5]]


def test_nested_numbers_say_how_wide_a_step_is_and_flat_ones_do_not(client: Client, server: SequenceServer) -> None:
    steps = np.ones((4, 2), np.float32)
    client.classify_series(steps)
    client.forecast(steps.tolist())
    list(client.track(steps))
    list(client.track([steps[:2], steps[2:]]))
    list(client.track(iter([[1.0, 2.0]]), width=2))
    with pytest.raises(ValueError, match="3 numbers in a stream whose steps have 2"):
        list(client.track([[1, 2, 3, 4], [1, 2, 3]], width=2))
    with client.tracker() as tracker:
        tracker.send(steps)
        with pytest.raises(ValueError, match="steps of 3 numbers in a stream whose steps have 2"):
            tracker.send([[1, 2, 3]])
    openings = [request for request in server.requests if request.HasField("width")]
    assert [request.width for request in openings] == [2] * 7
    server.requests.clear()
    client.classify_series([1, 2])
    client.forecast([1, 2])
    list(client.track([1, 2]))
    assert not any(request.HasField("width") for request in server.requests)


def test_a_wrong_argument_is_said_at_once(client: Client) -> None:
    two: Any = "two"
    with pytest.raises(ValueError, match=r"top_k is in \[1, 100\], not -1"):
        client.track([1], top_k=-1)
    with pytest.raises(TypeError, match="top_k is a whole number, not 'two'"):
        client.tracker(top_k=two)
    with pytest.raises(ValueError, match="horizon is in"):
        client.forecast([1], 0)


def test_a_stream_reads_its_values_while_it_is_answered(client: Client) -> None:
    answered = threading.Semaphore(1)

    def values() -> Iterator[float]:
        for value in range(5):
            assert answered.acquire(timeout=5), "the answer to the value before did not come"
            yield value

    for step, answer in enumerate(client.track(values()), 1):
        assert answer.step == step
        answered.release()
    assert step == 5


def test_the_state_comes_on_request_and_another_stream_goes_on_from_it(client: Client) -> None:
    answers = list(client.track([[1, 2], [3]], "sum", return_state=True))
    assert [bool(answer.state) for answer in answers] == [False, True, True]
    (answer,) = client.track([4], "sum", resume_state=answers[1].state)
    assert (answer.step, answer.values[0]) == (3, 1 + 2 + 4 + 1)


def test_a_failed_stream_says_where_it_stood_after_the_answers_before(client: Client) -> None:
    answers = client.track([1, BAD])
    assert next(answers).step == 1
    with pytest.raises(TriviumCallError) as caught:
        next(answers)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STATE_MISMATCH")
    assert caught.value.metadata["step"] == "1"


def test_what_the_values_raise_reaches_the_caller_after_the_answers_before(client: Client) -> None:
    answers = client.track([1, "no number"])
    assert next(answers).step == 1
    with pytest.raises(TypeError, match="no number"):
        next(answers)


def test_leaving_a_stream_early_ends_the_call(client: Client, server: SequenceServer) -> None:
    for _ in client.track(iter(lambda: 1, 0)):
        break
    assert server.left.wait(5)


def test_a_tracker_answers_piece_by_piece(client: Client, server: SequenceServer) -> None:
    with client.tracker("sum", top_k=3) as tracker:
        assert tracker.state == b""
        assert [answer.step for answer in tracker.send([1, 2])] == [1, 2]
        assert tracker.send([]) == ()
        (answer,) = tracker.send(3.0)
        assert (answer.step, answer.values[0], answer.model) == (3, 7.0, "sum:1")
        assert STATE.unpack(tracker.state) == (3, 6.0)
        assert not server.left.is_set()
    assert server.left.wait(5)
    opening, *others = server.requests
    assert (opening.model, opening.top_k, opening.return_state) == ("sum", 3, True)
    assert [list(request.values) for request in others] == [[1, 2], [3]]


def test_after_a_failure_a_tracker_has_the_state_before_and_another_goes_on_from_it(client: Client) -> None:
    with client.tracker("sum") as tracker:
        tracker.send([1, 2])
        with pytest.raises(TriviumCallError):
            tracker.send([3, BAD])
        with pytest.raises(RuntimeError, match="has ended"):
            tracker.send(3)
    with client.tracker("sum", resume_state=tracker.state) as second:
        assert [answer.values[0] for answer in second.send([3, 4])] == [7.0, 11.0]


def test_a_tracker_that_was_never_used_has_no_stream(client: Client, server: SequenceServer) -> None:
    with client.tracker():
        pass
    assert server.requests == []
