"""The subcommands of `trivium` that ask about texts: generate, score, classify-text, embed-text, tokenize."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import click

from trivium.client.client import Client
from trivium.client.commands import (
    SOME_FAILED,
    TIMEOUT_S,
    address_option,
    classified,
    connection,
    explain,
    model_option,
    server_options,
    show_classes,
    silent,
)
from trivium.client.errors import TriviumCallError
from trivium.client.generation import LARGEST_SEED
from trivium.client.output import as_json, complain, quoted, table
from trivium.client.progress import terminable
from trivium.client.results import Classification
from trivium.client.text_results import TokenLogprob
from trivium.client.values import LARGEST_COUNT
from trivium.client.words import Words
from trivium.client.writing import Documented, Written
from trivium.exits import INTERRUPTED

Command = TypeVar("Command", bound=Callable[..., None])

# The options of `generate` are those of GenerateOptions, with their ranges; the service's defaults are theirs.
OPTIONS: "tuple[tuple[str, click.ParamType[Any], str, str], ...]" = (
    ("--max-new-tokens", click.IntRange(0, LARGEST_COUNT), "N", "Tokens to make at most.  [default: 64]"),
    (
        "--temperature",
        click.FloatRange(0, 100),
        "T",
        "How freely tokens are drawn; 0 takes the likeliest.  [default: 0]",
    ),
    ("--top-k", click.IntRange(0, 64), "N", "Draw among the N likeliest tokens.  [default: 64]"),
    ("--top-p", click.FloatRange(0, 1, min_open=True), "P", "... among the fewest whose probabilities sum to P."),
    ("--min-p", click.FloatRange(0, 1), "P", "... among those of at least P times the likeliest's probability."),
    ("--repetition-penalty", click.FloatRange(0, 10, min_open=True), "X", "Make tokens that were there less likely."),
    ("--presence-penalty", click.FloatRange(-2, 2), "X", "... those of the text, once each."),
    ("--frequency-penalty", click.FloatRange(-2, 2), "X", "... those of the text, each time."),
    ("--seed", click.IntRange(0, LARGEST_SEED), "N", "Draw the same tokens again.  [default: a new one]"),
    ("--min-new-tokens", click.IntRange(0, LARGEST_COUNT), "N", "Tokens before which the text does not end."),
    ("--logprobs", click.IntRange(0, 20), "N", "Show how likely each token was, and N others in its place."),
    ("--n", click.IntRange(1, 8), "N", "Texts to write; in a pipe, --json tells them apart.  [default: 1]"),
)


def writing_options(command: Command) -> Command:
    """How a text is written."""
    for name, kind, metavar, text in reversed(OPTIONS):
        command = click.option(name, type=kind, default=None, metavar=metavar, help=text)(command)
    command = click.option("--ignore-eos", is_flag=True, help="Go on where the model would end the text.")(command)
    command = click.option("--echo", is_flag=True, help="Print the prompt before the text.")(command)
    return click.option(
        "--stop",
        type=Words(reads=False),
        multiple=True,
        metavar="TEXT",
        help="End before this string; again for several.",
    )(command)


@click.command()
@click.argument("prompt", type=Words())
@model_option
@writing_options
@click.option("--json", "as_document", is_flag=True, help="Print JSON, one line a piece.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.001),
    metavar="SECONDS",
    help="Longest wait for the whole text.",
)
@address_option
def generate(prompt: str, model: str, as_document: bool, timeout_s: float | None, address: str, **options: Any) -> None:
    """Writes a text: goes on with PROMPT, or turns it into another where the model does that.

    PROMPT is - for standard input, as it is, with the end of its last line. The text is printed as it is written; a
    line on standard error says who wrote it, how fast and why it ended.

    Exits with 0, 1 if it failed, 2 for wrong usage, 3 if no server answered, 130 on Ctrl-C, 143 on SIGTERM.
    """
    with interruptible(), connection(address, timeout_s or TIMEOUT_S) as client:
        pieces, began = client.generate(prompt, model, timeout_s=timeout_s, **options), False
        try:
            with Documented() if as_document else Written() as shown, closing(pieces):
                for piece in pieces:
                    shown.show(piece)
                    began = True
        except TriviumCallError as error:
            if not began or not silent(error):
                raise
            said, _ = explain(error, address, timeout_s or TIMEOUT_S)
            complain(f"the text breaks off: {said}")
            sys.exit(SOME_FAILED)
        for text in shown.texts:
            if text.logprobs:
                _show_logprobs(client, text.model, text.logprobs)


@click.command()
@click.argument("text", type=Words())
@click.option("--context", type=Words(), default="", metavar="TEXT", help="What stands before it, or its source text.")
@model_option
@server_options
def score(text: str, context: str, model: str, as_document: bool, timeout_s: float, address: str) -> None:
    """Says how likely each token of TEXT is.

    TEXT is - for standard input. Exits with 0, 1 if it failed, 3 if no server answered.
    """
    with connection(address, timeout_s) as client:
        answer = client.score(text, context, model)
        perplexity = None if math.isnan(answer.perplexity) else answer.perplexity
        if as_document:
            as_json({"text": text, "context": context, **asdict(answer), "perplexity": perplexity})
            return
        served = f"{answer.model}:{answer.version}"
        _show_logprobs(client, served, answer.tokens)
    line = f"{served}  {len(answer.tokens)} tokens, log-probability {answer.logprob:.4f}"
    line += "" if perplexity is None else f", perplexity {perplexity:.4g}"
    click.echo(click.style(line, dim=True), err=True)


@click.command("classify-text")
@click.argument("texts", nargs=-1, required=True, type=Words())
@model_option
@click.option(
    "--top-k", type=click.IntRange(1, 100), default=None, help="Classes to print for each text.  [default: 1]"
)
@server_options
def classify_text(
    texts: tuple[str, ...], model: str, top_k: int | None, as_document: bool, timeout_s: float, address: str
) -> None:
    """Says what texts are; each of them is one TEXT, or - for standard input.

    Exits with 0 if all were classified, 1 if some were not, 2 for wrong usage, 3 if no server answered.
    """
    with connection(address, timeout_s) as client:
        answers = [classified("text", _in_line(text), _asking(client, text, model, top_k or 1)) for text in texts]
        show_classes("text", answers, as_document)


@click.command("embed-text")
@click.argument("text", type=Words())
@model_option
@server_options
def embed_text(text: str, model: str, as_document: bool, timeout_s: float, address: str) -> None:
    """Turns TEXT into the vector that the model computes of it, in one line.

    TEXT is - for standard input. Exits with 0, 1 if it failed, 3 if no server answered.
    """
    with connection(address, timeout_s) as client:
        answer = client.embed_text(text, model)
    if as_document:
        as_json({"text": text, **asdict(answer)})
    else:
        click.echo("\t".join(f"{value:.7g}" for value in answer.values))


@click.command()
@click.argument("text", type=Words())
@click.option("--special", is_flag=True, help="Add what the model begins a prompt with.")
@model_option
@server_options
def tokenize(text: str, special: bool, model: str, as_document: bool, timeout_s: float, address: str) -> None:
    """Cuts TEXT into the tokens that the model gets, with their places in it.

    TEXT is - for standard input. Exits with 0, 1 if it failed, 3 if no server answered.
    """
    with connection(address, timeout_s) as client:
        answer = client.tokenize(text, model, add_special_tokens=special)
    if as_document:
        as_json({"text": text, **asdict(answer)})
    else:
        rows = [(token.id, quoted(token.piece), token.begin, token.end) for token in answer.tokens]
        table(("id", "piece", "begin", "end"), rows, elastic="piece")


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block in order, and the command with their exit codes."""
    with terminable():
        try:
            yield
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def _asking(client: Client, text: str, model: str, top_k: int) -> Callable[[], Classification]:
    return lambda: client.classify_text(text, model, top_k)


def _in_line(text: str) -> str:
    return " ".join(text.split())


def _show_logprobs(client: Client, model: str, found: Sequence[TokenLogprob]) -> None:
    """A line for each token, with what could have been in its place."""
    ids = {token_id for one in found for token_id in (one.token_id, *(other.token_id for other in one.alternatives))}
    words = _words(client, model, sorted(ids), len(found))
    rows = [
        (
            one.token_id,
            words[one.token_id],
            f"{one.logprob:.4f}",
            "  ".join(f"{words[other.token_id]} {other.logprob:.2f}" for other in one.alternatives),
        )
        for one in found
    ]
    if any(row[-1] for row in rows):
        table(("id", "token", "logprob", "alternatives"), rows, elastic="alternatives")
    else:
        table(("id", "token", "logprob"), [row[:-1] for row in rows], elastic="token")


def _words(client: Client, model: str, ids: Sequence[int], most: int) -> dict[int, str]:
    """Each token alone as text; at most so many are asked for at once, as the model has no longer texts."""
    words: dict[int, str] = {}
    for begin in range(0, len(ids), most):
        some = ids[begin : begin + most]
        answer = client.detokenize(some, model, keep_special_tokens=True, each=True)
        words |= dict(zip(some, map(quoted, answer.texts), strict=True))
    return words
