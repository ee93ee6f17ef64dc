"""Series with the SDK and the command: a server whose answers the tests can tell, then a real suite."""

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from click.testing import CliRunner
from rich.text import Text

from tests.harness import Suite, free_port, serving
from tests.recurrent import recurrent_bundle
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


def follow(server: SequenceServer, *arguments: str) -> "subprocess.Popen[str]":
    """The command, after it has answered the first number of an input that stays open."""
    pipe = subprocess.PIPE
    command = [*COMMAND, "--address", server.address, *arguments]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("1\n")
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(2)][1].startswith("1\todd")
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_with_its_state_saved(
    server: SequenceServer, tmp_path: Path, number: int, code: int
) -> None:
    state = tmp_path / "state"
    with follow(server, "--save-state", str(state)) as process:
        process.send_signal(number)
        assert process.wait(10) == code
        assert process.stderr is not None
        assert f"the state after step 1 is saved, go on with --resume {state}" in process.stderr.read()
    assert state.read_bytes() == STATE.pack(1, 1.0)


def test_a_server_that_goes_in_the_middle_of_a_stream_leaves_the_state_before(
    server: SequenceServer, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with follow(server, "--save-state", str(state)) as process:
        server.stop()
        assert process.wait(10) == 3
        assert process.stderr is not None
        assert "the stream stopped after step 1" in process.stderr.read()
    assert state.read_bytes() == STATE.pack(1, 1.0)


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
    assert first.stderr.splitlines() == [
        "trivium: line 1 is taken for a header: value",
        f"trivium: {file}: line 4: 'three' is no number",
        "trivium: the stream stopped after step 2",
        f"         the state after step 2 is saved, go on with --resume {state}",
    ]
    second = run(track, written(tmp_path, "4 5"), "--resume", state, "--json", "--address", server.address)
    answers = [json.loads(line) for line in second.stdout.splitlines()]
    assert [(answer["step"], answer["classes"][0]["label"]) for answer in answers] == [(3, "odd"), (4, "even")]


def test_the_command_does_not_overwrite_a_state_with_nothing(server: SequenceServer, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_bytes(STATE.pack(2, 3.0))
    ended = run(track, written(tmp_path, f"{BAD}"), "--save-state", str(state), "--address", server.address)
    assert (ended.exit_code, state.read_bytes()) == (1, STATE.pack(2, 3.0))
    empty = run(track, written(tmp_path, ""), "--save-state", str(state), "--address", server.address)
    assert (empty.exit_code, "no numbers in" in empty.stderr) == (2, True)
    assert "there is no state to save" in empty.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["series.csv", "state"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("none.csv",), 1, "none.csv: No such file or directory"),
        (("series.csv", "--resume", "none"), 1, "none: No such file or directory"),
        (("series.csv", "--resume", "empty"), 1, "empty holds no state"),
        (("empty",), 2, "no numbers in empty"),
        (("series.csv", "--save-state", "none/state"), 2, "--save-state none/state: there is no folder none"),
        (("series.csv", "--save-state", "."), 2, "--save-state . is no file"),
        (("series.csv", "--address", "localhost"), 2, "the address is host:port"),
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
    (tmp_path / "empty").touch()
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
    assert [request.width for request in server.requests] == [1, 1]
    nothing = run(forecast, written(tmp_path, "1;2"), "--address", server.address)
    assert nothing.exit_code == 2
    assert nothing.stderr.splitlines() == [
        "trivium: line 1 is taken for a header: 1;2",
        f"trivium: no numbers in {file}",
    ]
    wrong = run(forecast, file, "--horizon", "0", *options)
    assert (wrong.exit_code, "--horizon" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("model", ["parity", "sum"])
def test_on_a_terminal_a_chart_of_its_size_follows_the_series(server: SequenceServer, model: str) -> None:
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [*COMMAND, "--model", model, "--address", server.address]
    sizes = ("COLUMNS", "LINES")
    environment = {key: value for key, value in os.environ.items() if key not in sizes} | {"TERM": "xterm"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=inside, env=environment) as process:
        os.close(inside)
        assert process.stdin is not None
        process.stdin.write(b"1\n2\n3\n")
        process.stdin.close()
        shown = b"".join(iter(lambda: read(terminal), b"")).decode().replace("\r\n", "\n")
    os.close(terminal)
    assert process.returncode == 0
    last = Text.from_ansi(shown[shown.rindex(f"{model}:1, step 3") :]).plain.splitlines()[:19]
    assert last[0].split("  ━ ")[1:] == {"parity": ["even 75.0%", "odd 25.0%"], "sum": ["series", "forecast"]}[model]
    assert {len(line) for line in last[1:]} == {80}
    assert any("┤" in line for line in last)


def read(terminal: int) -> bytes:
    """What the program writes next; nothing once it has ended."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # nobody has the other end open
        return b""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def addresses(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[str]]:
    """Where a gateway and its two sequence instances listen; they serve "digits" and, two numbers wide, "walk"."""
    folder = tmp_path_factory.mktemp("suite")
    bundles = folder / "bundles"
    recurrent_bundle(bundles, "digits", cell="rnn", hidden=8, classes=10)
    recurrent_bundle(bundles, "walk", cell="lstm", hidden=8, width=2, horizon=4)
    async with Suite.open(folder) as suite:
        gateway, *instances = await asyncio.gather(
            suite.start_gateway(),
            suite.start("sequence", "sequence-1", BUNDLES_DIR=bundles, DEFAULT_MODEL="digits"),
            suite.start("sequence", "sequence-2", BUNDLES_DIR=bundles, DEFAULT_MODEL="digits"),
        )
        await serving(gateway.address, "model/walk")
        yield [gateway.address, *(instance.address for instance in instances)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_real_service_says_the_same_of_a_series_whole_and_step_by_step(addresses: list[str]) -> None:
    series = [float(value) for value in range(-8, 8)]

    def ask() -> None:
        with Client(addresses[0]) as client:
            whole = client.classify_series(series, top_k=10)
            *_, last = client.track(series, top_k=10)
            assert (last.step, last.classes, last.model) == (16, whole.classes, f"{whole.model}:{whole.version}")
            steps = np.array(series, np.float32).reshape(8, 2)
            (*_, end), continued = client.track([steps[:3], steps[3:]], "walk"), client.forecast(steps, model="walk")
            assert (end.step, end.values) == (8, continued.values)
            assert client.forecast(steps, 1, "walk").values == continued.values[:2]

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_series_goes_on_at_another_instance_from_its_state(addresses: list[str]) -> None:
    def ask() -> None:
        gateway, first, second = (Client(address) for address in addresses)
        with gateway, first, second:
            unbroken = list(gateway.track([1, 2, 3, 4], top_k=10))
            with first.tracker(top_k=10) as tracker:
                before = tracker.send([1, 2])
            with second.tracker(top_k=10, resume_state=tracker.state) as tracker:
                after = tracker.send([3, 4])
            assert [answer.classes for answer in (*before, *after)] == [answer.classes for answer in unbroken]
            assert [answer.step for answer in after] == [3, 4]
            with pytest.raises(TriviumCallError) as caught:
                next(gateway.track([[1, 2]], "walk", resume_state=tracker.state))
            assert caught.value.reason == "STATE_MISMATCH"

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_model_says_how_far_it_goes_and_what_it_cannot_do(addresses: list[str]) -> None:
    def ask() -> None:
        with Client(addresses[0]) as client:
            wide = np.ones((4, 4))
            for call in (
                lambda: client.classify_series(wide),
                lambda: client.forecast(wide, model="walk"),
                lambda: next(client.track(wide)),
            ):
                with pytest.raises(TriviumCallError, match="width is 4") as caught:
                    call()
                assert caught.value.reason == "INVALID_FIELD"
            model = client.model("walk")
            assert (model.stateful, model.max_horizon, model.max_steps) == (True, 4, 4096)
            for call in (lambda: client.classify_series([1, 2], "walk"), lambda: client.forecast([1], model="digits")):
                with pytest.raises(TriviumCallError) as caught:
                    call()
                assert caught.value.reason == "UNSUPPORTED_BY_MODEL"
            with pytest.raises(TriviumCallError) as caught:
                next(client.track(iter(lambda: 1, 0), "nothing"))  # known before the first number comes
            assert caught.value.reason == "MODEL_NOT_FOUND"

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_command_prints_what_a_real_service_says(addresses: list[str], tmp_path: Path) -> None:
    file = written(tmp_path, "a,b\n1,2\n3,4\n")
    options = ("--model", "walk", "--column", "a", "--column", "b", "--address", addresses[0])
    titles, *steps = (await asyncio.to_thread(run, forecast, file, *options)).stdout.splitlines()
    assert (titles, [step.split("\t")[0] for step in steps]) == ("step\tvalue_1\tvalue_2", ["1", "2", "3", "4"])
    long = written(tmp_path, "a,b\n" + "1,2\n" * 600 + "1,nan\n")
    for how in (options, ("--model", "walk", "--address", addresses[0])):
        text = long if how is options else written(tmp_path, "1,2\n" * 600 + "1,nan\n")
        refused = await asyncio.to_thread(run, track, text, *how)
        assert refused.exit_code == 1
        assert "number 1202 of the input was refused" in refused.stderr
        assert "the stream stopped after step 512" in refused.stderr
    file = written(tmp_path, "a,b\n1,2\n3,4\n")
    answers = (await asyncio.to_thread(run, track, file, "--json", *options)).stdout.splitlines()
    last = json.loads(answers[-1])
    assert last["step"] == 2
    assert [f"{value:.7g}" for value in last["values"]] == [cell for step in steps for cell in step.split("\t")[1:]]
