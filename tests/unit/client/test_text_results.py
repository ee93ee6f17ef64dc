"""Results of calls about texts: messages become plain values."""

import math
from collections.abc import Generator

import pytest

from trivium.client.results import Served
from trivium.client.text_results import Usage, completions, pieces, score, text, tokens
from trivium.language.v1 import language_pb2 as pb

FIRST, SECOND = 0, 1


def messages() -> Generator[pb.GenerateResponse, None, None]:
    """Two texts side by side; the first one echoes a prompt of two tokens."""
    logprob = pb.TokenLogprob(token_id=3, logprob=-0.5, alternatives=[pb.Alternative(token_id=4, logprob=-1)])
    yield pb.GenerateResponse(token_ids=[1, 2, 3], text="ab", logprobs=[logprob], seed=0, model="m:1", echoed=2)
    yield pb.GenerateResponse(choice=SECOND, token_ids=[9], seed=8, finish_reason=pb.FINISH_REASON_LENGTH)
    usage = pb.Usage(prompt_tokens=2, generated_tokens=3)
    end = pb.FINISH_REASON_STOP
    yield pb.GenerateResponse(index=1, token_ids=[4, 5], text="é", finish_reason=end, stop_string="\n", usage=usage)


def test_every_piece_has_the_model_and_its_texts_seed() -> None:
    first, other, last = pieces(messages())
    assert [(piece.model, piece.seed, piece.choice) for piece in (first, other, last)] == [
        ("m:1", 0, FIRST),
        ("m:1", 8, SECOND),
        ("m:1", 0, FIRST),
    ]
    assert (first.token_ids, first.echoed, first.text, first.finish_reason, first.usage) == (
        (1, 2, 3),
        2,
        "ab",
        "",
        None,
    )
    assert [(found.token_id, found.logprob) for found in first.logprobs] == [(3, -0.5)]
    assert [(found.token_id, found.logprob) for found in first.logprobs[0].alternatives] == [(4, -1.0)]
    assert (last.index, last.finish_reason, last.stop_string, last.usage) == (1, "stop", "\n", Usage(2, 3))


def test_pieces_make_whole_texts_in_order() -> None:
    first, second = completions(pieces(messages()))
    assert (first.text, first.token_ids, first.echoed, first.seed) == ("abé", (1, 2, 3, 4, 5), 2, 0)
    assert (first.finish_reason, first.stop_string, first.usage, len(first.logprobs)) == ("stop", "\n", Usage(2, 3), 1)
    assert str(first) == "abé"
    assert (second.token_ids, second.seed, second.finish_reason, second.model) == ((9,), 8, "length", "m:1")


def test_a_reason_of_a_newer_server_is_no_failure() -> None:
    message = pb.GenerateResponse.FromString(bytes([6 << 3, 99]))  # finish_reason = 99

    def one() -> Generator[pb.GenerateResponse, None, None]:
        yield message

    (piece,) = pieces(one())
    assert piece.finish_reason == "reason 99"


def test_pieces_that_nobody_wants_any_more_end_the_call() -> None:
    ended = []

    def endless() -> Generator[pb.GenerateResponse, None, None]:
        try:
            while True:
                yield pb.GenerateResponse(text="a")
        finally:
            ended.append(True)

    source = endless()
    found = pieces(source)
    next(found)
    found.close()
    assert ended == [True]


def test_a_score_has_its_perplexity() -> None:
    found = [pb.TokenLogprob(token_id=1, logprob=-1.0), pb.TokenLogprob(token_id=2, logprob=-2.0)]
    answer = score(pb.ScoreResponse(tokens=found, logprob=-3.0), Served(model="m", version=1))
    assert (answer.logprob, answer.model, [token.token_id for token in answer.tokens]) == (-3.0, "m", [1, 2])
    assert answer.perplexity == pytest.approx(math.exp(1.5))
    assert math.isnan(score(pb.ScoreResponse(), Served()).perplexity)


def test_tokens_know_what_they_are_and_where() -> None:
    message = pb.TokenizeResponse(token_ids=[5], tokens=[pb.Token(id=5, piece="Ġdef", begin=0, end=4)])
    found = tokens(message, Served(model="m"))
    assert (found.token_ids, found.tokens[0].piece, found.tokens[0].end, found.model) == ((5,), "Ġdef", 4, "m")
    assert str(text(pb.DetokenizeResponse(text=" def"), Served())) == " def"
