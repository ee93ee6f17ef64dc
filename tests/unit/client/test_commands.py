"""The words of the `trivium` command."""

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from trivium.client.commands import _lines, explain, silent
from trivium.client.errors import TriviumCallError


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_output_for_which_there_is_no_room_is_no_traceback() -> None:
    code = "from trivium.client.main import main; main()"
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", code, "--help"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (1, "Error: the output cannot be written: there is no space left\n")


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
