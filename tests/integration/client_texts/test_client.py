"""Texts with the SDK, from a server whose answers the tests can tell."""

from typing import Any

import grpc
import numpy as np
import pytest

from tests.language_server import LEAVES, WAITS, LanguageServer
from trivium.client import Client, TriviumCallError


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
    assert client.detokenize(cut.token_ids[1:], "letters").texts == ()
    assert client.detokenize(cut.token_ids[1:], "letters", each=True).texts == ("日", "b")
    assert server.requests[-1].model == "letters"
