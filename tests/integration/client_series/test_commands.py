"""Series with the commands: what they print, how they end, and that they go on from a state."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.text import Text

from tests.harness import free_port
from tests.integration.commands import read, run, written
from tests.sequence_server import BAD, STATE, SequenceServer
from trivium.client.sequence_commands import forecast, track

COMMAND = (sys.executable, "-c", "from trivium.client.sequence_commands import track; track()")


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_answers_for_which_there_is_no_room_are_not_blamed_on_the_series(server: SequenceServer) -> None:
    whole = (sys.executable, "-c", "from trivium.command import main; main()", "track")
    command = [*whole, "--address", server.address]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command, input="1\n", stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "Error: the output cannot be written: there is no space left\n")


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
