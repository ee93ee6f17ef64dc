import pytest

from services.kit.inference.timing import RunTimes, Slack


def test_a_queue_takes_its_full_batches_and_the_rest() -> None:
    times = RunTimes()
    for rows, seconds in ((1, 0.01), (2, 0.02), (4, 0.03)):
        times.record(rows, seconds)

    assert times.wait_s({}, 4) == 0
    assert times.wait_s({1: 9}, 4) == pytest.approx(0.03 + 0.03 + 0.01)
    assert times.wait_s({1: 3}, 4) == pytest.approx(0.03)  # never seen: the next larger size
    assert times.fastest_s == 0.01


def test_rows_of_many_steps_wait_for_each_of_them_and_share_no_run_with_others() -> None:
    times = RunTimes()
    for rows, seconds in ((1, 0.01), (4, 0.02)):
        times.record(rows, seconds)
    times.record(1, 0.16, steps=16)

    assert times.run_s(1, 16) == pytest.approx(0.16)
    assert times.wait_s({1: 4, 16: 1}, 4) == pytest.approx(0.02 + 0.16)
    assert times.fastest_s == pytest.approx(0.01)


def test_what_a_run_costs_besides_its_steps_is_not_counted_for_each_of_them() -> None:
    times = RunTimes()
    times.record(1, 0.010)
    assert times.run_s(1, 32) == pytest.approx(0.32)  # all that is known
    times.record(1, 0.012, steps=32)
    assert times.run_s(1, 32) == pytest.approx(0.012)
    assert times.run_s(1, 64) == pytest.approx(0.024)
    assert times.run_s(1) == pytest.approx(0.010)


def test_the_average_follows_and_the_fastest_stays() -> None:
    times = RunTimes()
    times.record(1, 0.01)
    for _ in range(50):
        times.record(1, 0.05)

    assert times.run_s(1) == pytest.approx(0.05, rel=0.01)
    assert times.fastest_s == 0.01


def test_nothing_is_known_before_the_first_run() -> None:
    assert RunTimes().wait_s({1: 5}, 4) == 0
    assert RunTimes().fastest_s == 0


def test_slack_covers_nearly_all_errors_and_forgets_a_hiccup() -> None:
    slack = Slack()
    for index in range(200):
        slack.record(0.01 if index % 2 else 0.03)
    assert 0.03 <= slack.seconds <= 0.06

    slack.record(2.0)
    assert slack.seconds > 0.2
    for _ in range(60):
        slack.record(0.0)
    assert slack.seconds < 0.01


def test_estimates_that_were_too_high_make_it_negative() -> None:
    slack = Slack()
    for _ in range(50):
        slack.record(-0.02)
    assert slack.seconds == pytest.approx(-0.02, abs=0.005)
