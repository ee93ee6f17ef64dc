"""The SDK's and the command's series against a real gRPC server whose answers the tests can tell."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from tests.harness import free_port
from tests.sequence_server import BAD, STATE, SequenceServer
from trivium.client import Client, TriviumCallError
from trivium.client.sequence_commands import forecast, track

COMMAND = (sys.executable, "-c", "from trivium.client.sequence_commands import track; track()")


@pytest.fixture
def server() -> Iterator[SequenceServer]:
    server = SequenceServer()
    yield server
    server.stop()


@pytest.fixture
def client(server: SequenceServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


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


def run(command: Any, *arguments: str) -> Any:
    return CliRunner().invoke(command, arguments)


def written(folder: Path, text: str) -> str:
    path = folder / "series.csv"
    path.write_text(text)
    return str(path)


def test_the_command_answers_each_line_of_its_input_while_more_may_come(server: SequenceServer) -> None:
    with subprocess.Popen(
        [*COMMAND, "--address", server.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, label in ((1, "odd"), (2, "odd"), (3, "even")):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            if number == 1:
                assert process.stdout.readline() == "step\tlabel\tprobability\n"
            assert process.stdout.readline() == f"{number}\t{label}\t0.7500\n"
        process.stdin.close()
        assert process.wait(10) == 0


def test_the_command_ends_with_its_stream_although_its_input_stays_open(server: SequenceServer) -> None:
    reading, writing = os.pipe()
    os.write(writing, f"{BAD}\n".encode())
    try:
        ended = subprocess.run(
            [*COMMAND, "--address", server.address], stdin=reading, capture_output=True, text=True, timeout=10
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "trivium: FAILED_PRECONDITION (STATE_MISMATCH): no such number\n"


def test_the_command_saves_the_state_and_goes_on_from_it(server: SequenceServer, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    file = written(tmp_path, "value\n1\n2\nthree\n")
    first = run(track, file, "--save-state", state, "--address", server.address)
    assert (first.exit_code, first.stdout.splitlines()[-1]) == (1, "2\todd\t0.7500")
    assert first.stderr == f"trivium: {file}: line 4: 'three' is no number\n"
    second = run(track, written(tmp_path, "4 5"), "--resume", state, "--json", "--address", server.address)
    answers = [json.loads(line) for line in second.stdout.splitlines()]
    assert [(answer["step"], answer["classes"][0]["label"]) for answer in answers] == [(3, "odd"), (4, "even")]


def test_the_command_does_not_overwrite_a_state_with_nothing(server: SequenceServer, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_bytes(STATE.pack(2, 3.0))
    ended = run(track, written(tmp_path, f"{BAD}"), "--save-state", str(state), "--address", server.address)
    assert (ended.exit_code, state.read_bytes()) == (1, STATE.pack(2, 3.0))
    empty = run(track, written(tmp_path, ""), "--save-state", str(state), "--address", server.address)
    assert empty.exit_code == 1
    assert "there is no state to save" in empty.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["series.csv", "state"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("none.csv",), 1, "none.csv: No such file or directory"),
        (("series.csv", "--resume", "none"), 1, "none: No such file or directory"),
        (("series.csv",), 2, "choose with --column"),
        (("series.csv", "--column", "spots"), 2, "no column is called spots"),
        (("series.csv", "--column", "sunspots", "--top-k", "0"), 2, "--top-k"),
        (("series.csv", "--column", "sunspots", "--address", f"127.0.0.1:{free_port()}"), 3, "nothing answers at"),
    ],
)
def test_the_command_says_why_it_ends(
    server: SequenceServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIVIUM_ADDRESS", server.address)
    written(tmp_path, "year,sunspots\n1700,5\n")
    ended = run(track, *arguments)
    assert ended.exit_code == code
    assert says in ended.stderr


def test_the_command_forecasts_a_column(server: SequenceServer, tmp_path: Path) -> None:
    file = written(tmp_path, "year,sunspots\n1700,5\n1701,11\n")
    options = ("--column", "sunspots", "--address", server.address)
    assert run(forecast, file, *options).stdout.splitlines() == ["step\tvalue", "1\t17", "2\t18", "3\t19"]
    found = json.loads(run(forecast, file, "--json", "--horizon", "1", *options).stdout)
    assert (found["values"], found["model"], found["version"]) == ([17.0], "sum", 1)
    assert [list(request.values) for request in server.requests] == [[5, 11], [5, 11]]
    wrong = run(forecast, file, "--horizon", "0", *options)
    assert (wrong.exit_code, "--horizon" in wrong.stderr) == (2, True)
