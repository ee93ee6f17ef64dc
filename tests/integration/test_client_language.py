"""Texts with the SDK and the command: a server whose answers the tests can tell, then a real suite."""

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
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from click.testing import CliRunner

from tests.harness import Suite, free_port, serving
from tests.language_bundles import tiny_bundle
from tests.language_server import LEAVES, WAITS, LanguageServer
from trivium.client import Client, GenerateOptions, TriviumCallError
from trivium.client.language_commands import classify_text, embed_text, generate, score, tokenize

COMMAND = (sys.executable, "-c", "from trivium.client.language_commands import generate; generate()")


@pytest.fixture
def server() -> Iterator[LanguageServer]:
    server = LanguageServer()
    yield server
    server.stop()


@pytest.fixture
def client(server: LanguageServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def test_a_text_comes_piece_by_piece(client: Client, server: LanguageServer) -> None:
    *others, last = client.generate("ab", "letters@stable", max_new_tokens=4, seed=3, temperature=0.5)
    assert [piece.text for piece in others] == ["c", "d", "e"]
    assert {(piece.finish_reason, piece.usage) for piece in others} == {("", None)}
    assert (last.text, last.index, last.finish_reason, last.seed, last.model) == (
        "f",
        3,
        "length",
        3,
        "letters@stable:1",
    )
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.generated_tokens) == (2, 4)
    (request,) = server.requests
    assert (request.prompt, request.max_new_tokens, request.HasField("top_k")) == ("ab", 4, False)
    assert server.remaining_s[0] > 1e9  # however long it takes


def test_the_first_piece_is_there_while_the_text_is_written(client: Client, server: LanguageServer) -> None:
    pieces = client.generate(WAITS)
    assert [next(pieces).text, next(pieces).text] == ["u", "v"]
    assert not server.left.is_set()
    pieces.close()
    assert server.left.wait(5)


def test_leaving_the_loop_ends_the_call(client: Client, server: LanguageServer) -> None:
    for _ in client.generate(WAITS):
        break
    assert server.left.wait(5)


def test_a_whole_text_is_one_answer(client: Client) -> None:
    text = client.complete("ab", stop=["xyz", "gh"], logprobs=1)
    assert (str(text), text.finish_reason, text.stop_string, text.seed) == ("cdef", "stop", "gh", 7)
    assert (len(text.token_ids), len(text.logprobs), text.usage.generated_tokens) == (6, 6, 6)
    echoed = client.complete([97, 98], max_new_tokens=2, echo=True)
    assert (echoed.text, echoed.echoed, echoed.token_ids) == ("abcd", 2, (97, 98, 99, 100))
    nothing = client.complete("ab", max_new_tokens=0)
    assert (nothing.text, nothing.token_ids, nothing.finish_reason) == ("", (), "length")


def test_several_texts_come_together(client: Client) -> None:
    first, second = client.completions("ab", n=2, max_new_tokens=3)
    assert (first.text, first.seed, second.text, second.seed) == ("cde", 7, "CDE", 6)
    with pytest.raises(ValueError, match="completions writes n of them"):
        client.complete("ab", n=2)


def test_a_text_that_broke_off_goes_on_after_its_tokens(client: Client, server: LanguageServer) -> None:
    pieces = client.generate(LEAVES, max_new_tokens=5)
    made = [*next(pieces).token_ids, *next(pieces).token_ids]
    with pytest.raises(TriviumCallError) as caught:
        next(pieces)
    assert (caught.value.reason, caught.value.metadata["token"], caught.value.unreachable) == (
        "NO_INSTANCE",
        "2",
        False,
    )
    rest = client.complete("leaf"[:3] + "e", max_new_tokens=5, continue_from=made)
    assert rest.text == "hij"
    assert list(server.requests[-1].continue_from.generated_token_ids) == made


def test_a_refused_text_carries_the_servers_reason(client: Client) -> None:
    with pytest.raises(TriviumCallError) as caught:
        client.complete("")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def test_a_wrong_argument_is_said_before_anything_is_sent(client: Client, server: LanguageServer) -> None:
    wrong: Any = {"max_tokens": 5}
    with pytest.raises(TypeError, match="did you mean max_new_tokens"):
        client.generate("ab", **wrong)
    with pytest.raises(ValueError, match="prompt has no tokens"):
        client.generate([])
    with pytest.raises(ValueError, match="top_k is in"):
        client.classify_text("ab", top_k=0)
    with pytest.raises(TypeError, match="text is a text"):
        client.embed_text(wrong)
    assert server.requests == []


def test_a_text_ends_at_the_time_that_it_was_given(client: Client) -> None:
    with pytest.raises(TriviumCallError) as caught:
        client.complete(WAITS, timeout_s=0.2)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_text_is_scored_as_characters_or_tokens(client: Client, server: LanguageServer) -> None:
    answer = client.score("bcd", "a")
    assert (len(answer.tokens), answer.logprob, answer.model, answer.version) == (3, -1.5, "letters", 1)
    assert answer.perplexity == pytest.approx(np.exp(0.5))
    assert [token.token_id for token in client.score(np.array([98, 99]), iter([97])).tokens] == [98, 99]
    request = server.requests[-1]
    assert (list(request.text_token_ids), list(request.context_token_ids), request.text) == ([98, 99], [97], "")


def test_a_text_is_classified_embedded_and_cut_into_tokens(client: Client, server: LanguageServer) -> None:
    answer = client.classify_text("ab", "cases", top_k=1)
    assert (answer.label, answer.probability, len(answer.classes), answer.model) == ("lower", 0.75, 1, "cases")
    assert client.embed_text("日本").values == (2.0, 0.5)
    cut = client.tokenize("日b", add_special_tokens=True)
    assert cut.token_ids == (1, 0x65E5, 98)
    assert [(token.piece, token.begin, token.end) for token in cut.tokens] == [("<s>", 0, 0), ("日", 0, 1), ("b", 1, 2)]
    assert client.detokenize(cut.token_ids[1:], "letters").text == "日b"
    assert server.requests[-1].model == "letters"


def run(command: Any, *arguments: str, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(command, arguments, input=stdin)


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
        ((WAITS, "--timeout", "0.2"), 3, "within 0.2 s"),
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


def read(terminal: int) -> bytes:
    """What the program writes next; nothing once it has ended."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # nobody has the other end open
        return b""


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


LANGUAGES = "langid-text"
GPT = "gpt"  # small, with random weights
PROMPT = "def the thing:\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def addresses(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[str]]:
    """Where a gateway and its two language instances listen; they serve GPT beside the default bundles."""
    folder = tmp_path_factory.mktemp("suite")
    tiny_bundle(folder / "bundles", "gpt", GPT)
    settings: dict[str, Any] = {"BUNDLES_DIR": folder / "bundles", "DEFAULT_MODEL": GPT}
    async with Suite.open(folder) as suite:
        gateway, *instances = await asyncio.gather(
            suite.start_gateway(),
            suite.start("language", "language-1", **settings),
            suite.start("language", "language-2", **settings),
        )
        await serving(gateway.address, f"model/{GPT}")
        yield [gateway.address, *(instance.address for instance in instances)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_real_service_writes_the_same_text_piece_by_piece_and_whole(addresses: list[str]) -> None:
    wish: dict[str, Any] = {"max_new_tokens": 200, "ignore_eos": True, "temperature": 0.9, "logprobs": 2}

    def ask() -> None:
        with Client(addresses[0]) as client:
            *others, last = client.generate(PROMPT, GPT, **wish)
            assert others  # a text of so many tokens takes longer than the machine keeps a process waiting
            assert (last.finish_reason, last.model) == ("length", f"{GPT}:1")
            whole = client.complete(PROMPT, seed=last.seed, **wish)
            assert "".join(piece.text for piece in (*others, last)) == whole.text
            assert tuple(token for piece in (*others, last) for token in piece.token_ids) == whole.token_ids
            assert (whole.usage.generated_tokens, len(whole.logprobs)) == (200, 200)
            assert {len(token.alternatives) for token in whole.logprobs} == {2}
            assert client.detokenize(whole.token_ids).text == whole.text
            scored = client.score(whole.token_ids, PROMPT)
            assert [token.token_id for token in scored.tokens] == list(whole.token_ids)
            made = [token.logprob for token in whole.logprobs]
            assert [token.logprob for token in scored.tokens] == pytest.approx(made, abs=1e-4)
            assert scored.logprob == pytest.approx(sum(made), abs=1e-2)

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_text_goes_on_at_another_instance_after_its_tokens(addresses: list[str]) -> None:
    def ask() -> None:
        gateway, first, second = (Client(address) for address in addresses)
        with gateway, first, second:
            wish: GenerateOptions = {"temperature": 1, "repetition_penalty": 1.2, "seed": 5, "max_new_tokens": 16}
            unbroken = gateway.complete(PROMPT, GPT, **wish)
            with closing(first.generate(PROMPT, GPT, **wish)) as pieces:
                before = next(pieces)
            rest: GenerateOptions = {**wish, "continue_from": before.token_ids}
            after = second.complete(PROMPT, GPT, **rest)
            assert before.token_ids + after.token_ids == unbroken.token_ids
            assert before.text + after.text == unbroken.text
            assert (after.finish_reason, after.usage) == (unbroken.finish_reason, unbroken.usage)

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_text_ends_where_it_was_told_to(addresses: list[str]) -> None:
    def ask() -> None:
        with Client(addresses[0]) as client:
            whole = client.complete(PROMPT, GPT, max_new_tokens=32)
            stop = whole.text[8:12]
            stopped = client.complete(PROMPT, GPT, max_new_tokens=32, stop=stop)
            assert (stopped.text, stopped.stop_string) == (whole.text[: whole.text.index(stop)], stop)
            assert (stopped.finish_reason, stopped.usage.generated_tokens) == ("stop", len(stopped.token_ids))
            echoed, other = client.completions(PROMPT, GPT, max_new_tokens=4, n=2, echo=True, temperature=2, seed=1)
            assert echoed.text.startswith(PROMPT)
            assert other.text.startswith(PROMPT)
            assert echoed.token_ids[: echoed.echoed] == other.token_ids[: other.echoed]
            assert (len(echoed.token_ids) - echoed.echoed, echoed.seed != other.seed) == (4, True)

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_text_is_cut_into_tokens_and_made_of_them_again(addresses: list[str]) -> None:
    def ask() -> None:
        with Client(addresses[0]) as client:
            text = "def 日本\n"
            cut = client.tokenize(text, GPT)
            assert {text[token.begin : token.end] for token in cut.tokens} >= {"def", "日", "\n"}
            assert client.detokenize(cut.token_ids, GPT).text == text
            assert (cut.model, cut.tokens[0].piece, len(cut.token_ids)) == (GPT, "def", len(cut.tokens))
            special = client.tokenize(text, GPT, add_special_tokens=True)
            assert special.token_ids[1:] == cut.token_ids

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_model_says_what_it_cannot_do(addresses: list[str]) -> None:
    def ask() -> None:
        with Client(addresses[0]) as client:
            most = client.model(GPT).max_tokens
            calls: list[tuple[str, Callable[[], object]]] = [
                ("UNSUPPORTED_BY_MODEL", lambda: client.classify_text("a", GPT)),
                ("UNSUPPORTED_BY_MODEL", lambda: client.embed_text("a", GPT)),
                ("MODEL_NOT_FOUND", lambda: client.complete("a", "nothing")),
                ("INVALID_FIELD", lambda: client.complete([2**32 - 1], GPT)),
                ("INVALID_FIELD", lambda: client.complete("a", GPT, top_p=1.5)),
                ("INVALID_FIELD", lambda: client.completions("a", GPT, n=9)),
                ("INPUT_TOO_LARGE", lambda: client.complete("a", GPT, max_new_tokens=most)),
            ]
            for reason, call in calls:
                with pytest.raises(TriviumCallError) as caught:
                    call()
                assert caught.value.reason == reason, caught.value

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_command_writes_what_a_real_service_says(addresses: list[str]) -> None:
    options = ("--address", addresses[0])
    code = await asyncio.to_thread(run, generate, "-", "--seed", "3", "--json", *options, stdin=PROMPT.encode())
    pieces = [json.loads(line) for line in code.stdout.splitlines()]
    assert sum(len(piece["token_ids"]) for piece in pieces) == pieces[-1]["usage"]["generated_tokens"] == 64
    scored = await asyncio.to_thread(run, score, "import os", *options)
    assert (scored.exit_code, "perplexity" in scored.stderr) == (0, True)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_language_of_a_phrase_is_named(addresses: list[str]) -> None:
    def ask() -> None:
        with Client(addresses[0]) as client:
            phrase = "Vi måste vänta här tills tåget från Göteborg kommer."
            answers = client.classify_text(phrase, LANGUAGES, top_k=3)
            assert (answers.label, len(answers.classes), answers.model) == ("sv", 3, LANGUAGES)
            assert client.classify_text(phrase).model == LANGUAGES  # the default writes, and has no classes
            assert len(client.embed_text(phrase, LANGUAGES).values) > 8
            calls: list[tuple[str, Callable[[], object]]] = [
                ("UNSUPPORTED_BY_MODEL", lambda: client.complete("a", LANGUAGES)),
                ("UNSUPPORTED_BY_MODEL", lambda: client.tokenize("a", LANGUAGES)),
                ("INVALID_FIELD", lambda: client.classify_text("", LANGUAGES)),
            ]
            for reason, call in calls:
                with pytest.raises(TriviumCallError) as caught:
                    call()
                assert caught.value.reason == reason, caught.value

    await asyncio.to_thread(ask)
    ended = await asyncio.to_thread(run, classify_text, "Where is my bicycle today?", "--address", addresses[0])
    assert (ended.exit_code, ended.stdout.splitlines()[1].split("\t")[1]) == (0, "en")
