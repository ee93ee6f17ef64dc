import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from services.kit.errors import TriviumError
from services.language.text import Detokenizer, TextWriter
from services.language.tokenizer import Tokenizer
from tests.unit.language.fakes import FakeTokenizer


@pytest.fixture(scope="module")
def by_byte(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A token for each byte: characters of several bytes come in several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={piece: at for at, piece in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return Tokenizer(path, len(alphabet))


def pieces(writer: TextWriter, tokens: list[int], *, least: int = 0) -> list[str]:
    """What each token adds, and what is left at the end."""
    found = []
    for count, token in enumerate(tokens, 1):
        found.append(writer.push(token, may_stop=count >= least))
        if writer.stopped_by is not None:
            return found
    return [*found, writer.rest(may_stop=len(tokens) >= least)]


def test_no_piece_splits_a_character(by_byte: Tokenizer) -> None:
    text = "naïve 三百 🙂 e\u0301 done"
    said = pieces(TextWriter(by_byte, ()), by_byte.encode(text))
    assert "".join(said) == text
    assert all("\ufffd" not in piece for piece in said)


def test_bytes_that_are_no_character_do_not_hold_back_what_follows(by_byte: Tokenizer) -> None:
    smile = by_byte.encode("🙂")
    said = pieces(TextWriter(by_byte, ()), [*smile[:2], *by_byte.encode("abc")])
    assert "".join(said).endswith("abc")
    assert "abc" not in said[-1]


def test_rubbish_is_said_in_the_end(by_byte: Tokenizer) -> None:
    smile = by_byte.encode("🙂")
    assert "".join(pieces(TextWriter(by_byte, ()), smile[:2])) == "\ufffd"
    assert len("".join(pieces(TextWriter(by_byte, ()), smile[:1] * 40))) == 40


def test_random_tokens_give_the_same_text_whole_and_in_pieces(by_byte: Tokenizer) -> None:
    source = random.Random(1)
    for _ in range(200):
        text = "".join(source.choice("ab é三🙂\n") for _ in range(source.randrange(1, 30)))
        assert "".join(pieces(TextWriter(by_byte, ()), by_byte.encode(text))) == text


def test_tokens_that_say_the_same_everywhere_are_not_looked_at_twice(
    by_byte: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = random.Random(2)
    tokens = by_byte.encode("abc é三🙂\n") + list(range(256))
    texts = [source.choices(tokens, k=40) for _ in range(200)]
    quick = [pieces(TextWriter(by_byte, ()), text) for text in texts]
    monkeypatch.setattr(by_byte, "_joins", False)
    assert [pieces(TextWriter(by_byte, ()), text) for text in texts] == quick


def test_a_token_says_something_else_where_the_tokenizer_looks_at_its_place(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.BPE(vocab={"\u2581a": 0, "\u2581b": 1}, merges=[]))
    made.decoder = decoders.Metaspace()  # no space at the beginning of a text
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", 2)
    assert tokenizer.alone(1) is None
    assert pieces(TextWriter(tokenizer, ()), [0, 1, 1]) == ["a", " b", " b", ""]


def test_a_text_goes_on_as_if_it_had_not_been_interrupted(by_byte: Tokenizer) -> None:
    tokens = by_byte.encode("三つの🙂 stop here")
    said = pieces(TextWriter(by_byte, ("op",)), tokens)
    for cut in range(len(said)):
        second = TextWriter(by_byte, ("op",))
        for token in tokens[:cut]:
            second.push(token, may_stop=True)
        assert pieces(second, tokens[cut:]) == said[cut:]


@pytest.mark.parametrize(
    ("stop", "text", "expected", "found"),
    [
        (("lo",), "hello", "hel", "lo"),
        (("x",), "hello", "hello", None),
        (("lll", "l"), "hello", "he", "l"),
        (("ab", "b"), "xaby", "x", "ab"),
        (("aab",), "aaab", "a", "aab"),
        (("hello",), "hello", "", "hello"),
        (("o!",), "hello", "hello", None),
    ],
)
def test_a_stop_string_ends_the_text_before_it(
    stop: tuple[str, ...], text: str, expected: str, found: str | None
) -> None:
    tokenizer = FakeTokenizer()
    writer = TextWriter(tokenizer, stop)  # type: ignore[arg-type]
    said = pieces(writer, tokenizer.encode(text))
    assert "".join(said) == expected
    assert writer.stopped_by == found


def test_nothing_of_a_possible_stop_string_is_said_before_it_is_decided() -> None:
    tokenizer = FakeTokenizer()
    writer = TextWriter(tokenizer, ("###",))  # type: ignore[arg-type]
    assert pieces(writer, tokenizer.encode("a##b#")) == ["a", "", "", "##b", "", "#"]


def test_stop_strings_do_not_count_before_enough_tokens() -> None:
    tokenizer = FakeTokenizer()
    writer = TextWriter(tokenizer, ("b",))  # type: ignore[arg-type]
    assert "".join(pieces(writer, tokenizer.encode("abab"), least=3)) == "aba"
    writer = TextWriter(tokenizer, ("bcd",))  # type: ignore[arg-type]
    assert "".join(pieces(writer, tokenizer.encode("abcd"), least=4)) == "a"


def test_a_stop_string_in_the_rest_of_a_text_counts(by_byte: Tokenizer) -> None:
    writer = TextWriter(by_byte, ("\ufffd",))
    tokens = [*by_byte.encode("a"), *by_byte.encode("🙂")[:2]]
    assert "".join(pieces(writer, tokens)) == "a"
    assert writer.stopped_by == "\ufffd"


def test_the_window_stays_short() -> None:
    decoded: list[int] = []

    class Counting(FakeTokenizer):
        def decode(self, tokens: list[int], *, keep_special_tokens: bool = False) -> str:
            decoded.append(len(tokens))
            return super().decode(tokens)

    detokenizer = Detokenizer(Counting())  # type: ignore[arg-type]
    assert "".join(detokenizer.push(token) for token in [33] * 500) == "A" * 500
    assert max(decoded) <= 2


def test_tokens_that_the_library_has_no_text_for_are_a_failure_like_any_other(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "bc": 1}, merges=[]))
    made.decoder = decoders.Strip(content="a", left=0, right=2)  # panics where a token is shorter
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", 2)
    assert tokenizer.decode([1]) == "bc"
    with pytest.raises(TriviumError, match="no text for these tokens"):
        tokenizer.decode([0])


def test_a_text_that_the_library_panics_over_is_a_failure_like_any_other(
    by_byte: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panics:
        def encode_batch(self, *_: object, **__: object) -> None:
            raise BaseException("as the library's PanicException")

    monkeypatch.setattr(by_byte, "_tokenizer", Panics())
    for read in (by_byte.encode, by_byte.tokens):
        with pytest.raises(TriviumError, match="no tokens for this text"):
            read("abc")
