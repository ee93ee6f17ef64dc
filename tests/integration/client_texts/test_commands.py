"""Texts with the commands: what they print, how they end, and what they say then."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

import pytest

from tests.harness import free_port
from tests.integration.commands import read, run
from tests.language_server import LEAVES, WAITS, LanguageServer
from trivium.client.language_commands import classify_text, embed_text, generate, score, tokenize
from trivium.language.v1 import language_pb2 as pb

COMMAND = (sys.executable, "-c", "from trivium.client.language_commands import generate; generate()")


def test_the_command_writes_the_text_and_says_who_wrote_it(server: LanguageServer) -> None:
    ended = run(generate, "ab", "--max-new-tokens", "4", "--seed", "5", "--address", server.address)
    assert (ended.exit_code, ended.stdout) == (0, "cdef\n")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("letters:1  4 tokens, ")
    assert line.endswith(" tokens/s, length, seed 5")


def test_every_option_of_the_command_arrives(server: LanguageServer) -> None:
    options = {
        "max_new_tokens": 3,
        "temperature": 0.5,
        "top_k": 0,
        "top_p": 0.75,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "presence_penalty": -1.0,
        "frequency_penalty": 0.5,
        "seed": 2**64 - 1,
        "min_new_tokens": 2,
        "n": 2,
    }
    given = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    flags = ["--model", "letters", "--ignore-eos", "--echo", "--stop", "xy", "--stop", "\n", "--json"]
    ended = run(generate, "-", *given, *flags, "--address", server.address, stdin=b"a\xc3\xa9\nb")
    assert ended.exit_code == 0
    (request,) = server.requests
    assert {name: getattr(request, name) for name in options} == options
    assert all(request.HasField(name) for name in options)
    assert (request.prompt, request.model, list(request.stop)) == ("aé\nb", "letters", ["xy", "\n"])
    assert (request.ignore_eos, request.echo) == (True, True)
    pieces = [json.loads(line) for line in ended.stdout.splitlines()]
    assert "".join(piece["text"] for piece in pieces if piece["choice"] == 1) == "aé\nbCDE"
    assert (pieces[-1]["finish_reason"], pieces[-1]["usage"]["generated_tokens"]) == ("length", 3)
    assert ended.stderr == ""


def test_the_command_prints_several_texts_one_after_the_other(server: LanguageServer) -> None:
    ended = run(generate, "ab", "--n", "2", "--max-new-tokens", "3", "--address", server.address)
    assert ended.stdout == "cde\nCDE\n"
    assert [line.split(", ")[-1] for line in ended.stderr.splitlines()] == ["seed 7", "seed 6"]


def test_the_command_shows_how_likely_tokens_were(server: LanguageServer) -> None:
    options = ("--max-new-tokens", "2", "--address", server.address)
    assert run(generate, "ab", "--logprobs", "2", *options).stdout.splitlines() == [
        "cd",
        "id\ttoken\tlogprob\talternatives",
        '99\t"c"\t-0.2500\t"c" -0.25  "d" -1.25',
        '100\t"d"\t-0.2500\t"d" -0.25  "e" -1.25',
    ]
    asked = [len(one.token_ids) for one in server.requests if isinstance(one, pb.DetokenizeRequest)]
    assert asked == [2, 1]  # each token once, and no more at a time than the text has
    assert run(generate, "ab", "--logprobs", "0", *options).stdout.splitlines()[1] == "id\ttoken\tlogprob"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "Missing argument 'PROMPT'"),
        (("ab", "--temperature", "hot"), 2, "--temperature"),
        (("ab", "--top-p", "0"), 2, "--top-p"),
        (("ab", "--seed", "-1"), 2, "--seed"),
        (("ab\udcff",), 2, "'PROMPT': no UTF-8 text"),
        (("ab", "--stop", "\udcff"), 2, "'--stop': no UTF-8 text"),
        (("ab", "--address", "localhost"), 2, "the address is host:port"),
        (("",), 1, "INVALID_ARGUMENT (INVALID_FIELD): prompt is empty"),
        ((LEAVES,), 1, "UNAVAILABLE (NO_INSTANCE): no instance goes on"),
        (("ab", "--address", f"127.0.0.1:{free_port()}"), 3, "nothing answers at"),
        ((WAITS, "--timeout", "0.2"), 1, "the text breaks off: no answer from"),
    ],
)
def test_the_command_says_why_it_ends(
    server: LanguageServer, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, says: str
) -> None:
    monkeypatch.setenv("TRIVIUM_ADDRESS", server.address)
    ended = run(generate, *arguments)
    assert (ended.exit_code, says in ended.stderr) == (code, True), ended.stderr
    assert ended.stdout in ("", "fg\n", "uv\n")  # what there was before


def test_what_is_no_text_is_refused_before_anything_is_sent(server: LanguageServer) -> None:
    ended = run(generate, "-", "--address", server.address, stdin=b"ab\xff")
    assert (ended.exit_code, ended.stderr) == (1, "trivium: standard input is no UTF-8 text: byte 3\n")
    assert server.requests == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_text_and_the_command(server: LanguageServer, number: int, code: int) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, WAITS, "--address", server.address], stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(2) == b"uv"  # as they come
        process.send_signal(number)
        assert process.wait(10) == code
        assert process.stdout.read() == b"\n"
        line = process.stderr.read().decode()
    assert line.startswith("letters:1  2 tokens, ")
    assert line.endswith(" tokens/s, interrupted, seed 7\n")
    assert server.left.wait(5)


def test_a_reader_that_leaves_ends_the_text(server: LanguageServer) -> None:
    """As with `trivium generate ... | head -c 1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [*COMMAND, WAITS, "--address", server.address], stdout=writing, stderr=subprocess.PIPE
    ) as process:
        os.close(writing)
        assert process.wait(10) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert server.left.wait(5)


def test_on_a_terminal_the_text_comes_as_it_is_written_and_the_last_line_is_dim(server: LanguageServer) -> None:
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [*COMMAND, WAITS, "--address", server.address]
    with subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, start_new_session=True) as process:
        os.close(inside)
        shown = b""
        while b"uv" not in shown:
            shown += read(terminal)
        os.kill(process.pid, signal.SIGINT)
        shown += b"".join(iter(lambda: read(terminal), b""))
    os.close(terminal)
    assert process.returncode == 130
    text, line = shown.decode().splitlines()
    assert text == "uv"
    assert line.startswith("\x1b[2mletters:1  2 tokens, ")
    assert line.endswith("interrupted, seed 7\x1b[0m")


def test_the_command_scores_a_text(server: LanguageServer) -> None:
    ended = run(score, "bc", "--context", "a", "--address", server.address)
    assert ended.stdout.splitlines() == ["id\ttoken\tlogprob", '98\t"b"\t-0.5000', '99\t"c"\t-0.5000']
    assert ended.stderr == "letters:1  2 tokens, log-probability -1.0000, perplexity 1.649\n"
    found = json.loads(run(score, "-", "--json", "--address", server.address, stdin=b"b").stdout)
    assert (found["text"], found["tokens"], found["logprob"], found["perplexity"]) == ("b", [], 0.0, None)


def test_the_command_classifies_texts_and_goes_on_after_a_bad_one(server: LanguageServer) -> None:
    ended = run(classify_text, "ab\ncd", "", "-", "--top-k", "1", "--address", server.address, stdin=b"AB\n")
    assert ended.exit_code == 1
    rows = [line.split("\t")[:4] for line in ended.stdout.splitlines()]
    assert rows == [
        ["text", "label", "probability", "model"],
        ["ab cd", "lower", "0.7500", "letters:1"],
        ["AB", "upper", "0.7500", "letters:1"],
    ]
    assert "INVALID_ARGUMENT (INVALID_FIELD): text is empty" in ended.stderr
    first, second = json.loads(run(classify_text, "ab", "", "--json", "--address", server.address).stdout)
    assert (first["text"], first["classes"][0]["label"], second["error"]["reason"]) == ("ab", "lower", "INVALID_FIELD")


def test_the_command_embeds_and_cuts_a_text(server: LanguageServer) -> None:
    assert run(embed_text, "ab", "--address", server.address).stdout == "2\t0.5\n"
    assert json.loads(run(embed_text, "ab", "--json", "--address", server.address).stdout)["values"] == [2.0, 0.5]
    assert run(tokenize, "a ", "--special", "--address", server.address).stdout.splitlines() == [
        "id\tpiece\tbegin\tend",
        '1\t"<s>"\t0\t0',
        '97\t"a"\t0\t1',
        '32\t" "\t1\t2',
    ]
    assert json.loads(run(tokenize, "a", "--json", "--address", server.address).stdout)["token_ids"] == [97]
