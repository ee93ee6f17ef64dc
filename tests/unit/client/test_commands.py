"""The words of the `trivium` command."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from click.testing import CliRunner, Result
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from trivium.client.commands import _lines, classify, explain, health, models, silent
from trivium.client.errors import TriviumCallError
from trivium.client.language_commands import classify_text, embed_text, generate, score, tokenize
from trivium.client.main import main
from trivium.client.sequence_commands import forecast, track


def error(code: grpc.StatusCode, message: str, reason: str = "") -> TriviumCallError:
    status = status_pb2.Status(code=code.value[0], message=message)
    if reason:
        status.details.add().Pack(ErrorInfo(reason=reason, domain="trivium"))
    return TriviumCallError(status)


def test_nobody_there_and_no_answer_are_told_apart_from_what_a_server_says() -> None:
    nobody = error(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
    late = error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    said = error(grpc.StatusCode.UNAVAILABLE, "no instance", "NO_INSTANCE")
    assert [silent(found) for found in (nobody, late, said)] == [True, True, False]
    assert explain(nobody, "here:1", 10)[0] == "nothing answers at here:1"
    assert explain(late, "here:1", 10)[0] == "no answer from here:1 within 10 s"
    assert explain(said, "here:1", 10)[0] == "UNAVAILABLE (NO_INSTANCE): no instance"


def ended(arguments: str, redirected: str) -> "subprocess.CompletedProcess[str]":
    """`trivium`, as a shell starts it."""
    code = "from trivium.command import main; main()"
    command = f"exec '{sys.executable}' -c '{code}' {arguments} {redirected}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)


def test_an_interrupt_while_libraries_are_loaded_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    command = [sys.executable, "-c", "from trivium.command import main; main()", "ps"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


def test_an_interrupted_command_ends_with_130_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trivium.client.main._load", lambda entry: click.Command("models", callback=interrupted))
    found = CliRunner().invoke(main, ["models"])
    assert (found.exit_code, found.output) == (130, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_output_for_which_there_is_no_room_is_no_traceback() -> None:
    found = ended("--help", ">/dev/full")
    assert (found.returncode, found.stderr) == (1, "Error: the output cannot be written: there is no space left\n")


def test_a_closed_output_is_no_traceback() -> None:
    found = ended("generate x", ">&-")
    assert (found.returncode, found.stderr) == (
        1,
        "Error: the output cannot be written: standard output is closed\n",
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("generate -", "trivium: standard input: is closed"),
        ("classify -", "trivium: -: is closed"),
        ("forecast -", "trivium: standard input: is closed"),
    ],
)
def test_a_closed_input_is_no_traceback(arguments: str, line: str) -> None:
    found = ended(arguments, "<&-")
    assert (found.returncode, found.stdout, found.stderr) == (1, "", f"{line}\n")


def given(command: click.Command, kind: type[click.Parameter]) -> list[click.Parameter]:
    return [parameter for parameter in command.params if isinstance(parameter, kind)]


def asked(command: click.Command, option: click.Parameter | None, *values: str) -> Result:
    """The command with this value for one of its options, and with something for every argument that it needs."""
    needed = ["/dev/null" for argument in given(command, click.Argument) if argument.required]
    return CliRunner().invoke(command, [*(option.opts[-1:] if option else ()), *values, *needed])


COMMANDS = [classify, health, models, *(classify_text, embed_text, generate, score, tokenize), *(forecast, track)]
OPTIONS = [(command, option) for command in COMMANDS for option in given(command, click.Option)]
NUMBERS = [(command, option) for command, option in OPTIONS if isinstance(option.type, click.IntRange)]
TEXTS = [(command, option) for command, option in OPTIONS if option.name in ("model", "stop", "context")]


def named(value: Any) -> str:
    return str(value.name)


@pytest.mark.parametrize("value", [str(10**30), "-1"])
@pytest.mark.parametrize(("command", "option"), NUMBERS, ids=named)
def test_a_count_that_no_message_can_hold_is_wrong_usage(
    command: click.Command, option: click.Option, value: str
) -> None:
    result = asked(command, option, value)
    assert (result.exit_code, f"Invalid value for '{option.opts[-1]}'" in result.output) == (2, True), result.output


@pytest.mark.parametrize("value", [str(2**32), "99999999999"])
@pytest.mark.parametrize("name", ["--max-new-tokens", "--min-new-tokens"])
def test_so_is_one_just_above_the_largest(name: str, value: str) -> None:
    assert CliRunner().invoke(generate, ["x", name, value]).exit_code == 2


@pytest.mark.parametrize(("command", "option"), TEXTS, ids=named)
def test_a_text_that_no_message_can_hold_is_wrong_usage(command: click.Command, option: click.Option) -> None:
    result = asked(command, option, "a\udcff")
    assert (result.exit_code, "no UTF-8 text" in result.output) == (2, True), result.output


@pytest.mark.parametrize("command", [health, models])
def test_so_is_a_name(command: click.Command) -> None:
    assert asked(command, None, "a\udcff").exit_code == 2


@pytest.mark.parametrize("command", [command for command, option in OPTIONS if option.name == "timeout_s"], ids=named)
def test_a_timeout_that_is_no_number_is_wrong_usage(command: click.Command) -> None:
    option = next(option for option in command.params if option.name == "timeout_s")
    result = asked(command, option, "nan")
    assert (result.exit_code, "the timeout is more than 0 s, not nan" in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("CLIENT: Sent message larger than max (80000005 vs. 67108864)", "at most 64 MiB"),
        ("SERVER: Received message larger than max (5000000 vs. 4194304)", "at most 4 MiB"),
        ("CLIENT: Received message larger than max (80000005 vs. 67108864)", ""),
    ],
)
def test_a_message_that_is_too_large_comes_with_what_may_be_sent(message: str, hint: str) -> None:
    _, found = explain(error(grpc.StatusCode.RESOURCE_EXHAUSTED, message), "here:1", 10)
    assert (hint in found, bool(found)) == (True, bool(hint))


def test_an_unknown_model_comes_with_the_way_to_the_known_ones() -> None:
    _, hint = explain(error(grpc.StatusCode.NOT_FOUND, "no model x", "MODEL_NOT_FOUND"), "here:1", 10)
    assert "trivium models" in hint


@pytest.mark.parametrize(
    ("card", "lines"),
    [
        ({"limits": ["upright", "one digit"]}, [("limits", "upright"), ("limits", "one digit")]),
        ({"metrics": {"values": {"accuracy": 0.99}}}, [("metrics.values.accuracy", "0.99")]),
        ({"metrics": {"confusion": [[1, 0]], "classes": {"a": {"precision": 1}}}, "training": None}, []),
    ],
)
def test_a_card_is_shown_without_its_tables(card: dict[str, object], lines: list[tuple[str, str]]) -> None:
    assert list(_lines("", card)) == lines
