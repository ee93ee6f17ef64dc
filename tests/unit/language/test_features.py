"""Features: what a classifier sees of a text."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.inference.manifest import NgramFeatures
from services.language.features import SHORTEST, Ngrams

BUCKETS = 32768


def ngrams(smallest: int = 1, largest: int = 4, max_characters: int = 2000, *, casefold: bool = True) -> Ngrams:
    return Ngrams(
        NgramFeatures(
            buckets=BUCKETS, smallest=smallest, largest=largest, max_characters=max_characters, casefold=casefold
        )
    )


def found(of: Ngrams, text: str) -> list[int]:
    """The features of a text without the padding."""
    ids = of.ids(text)
    return sorted(ids[ids != 0].tolist())


@given(st.text(max_size=300))
def test_a_row_is_features_and_then_zeros_up_to_a_power_of_two(text: str) -> None:
    ids = ngrams().ids(text)
    count = int((ids != 0).sum())
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert ids.max() <= BUCKETS
    assert not ids[count:].any()
    assert len(ids) & (len(ids) - 1) == 0
    assert len(ids) == SHORTEST or len(ids) // 2 < count <= len(ids)


@pytest.mark.parametrize("text", ["", " ", "\n\t　\x1f"])
def test_a_text_without_visible_characters_has_no_features(text: str) -> None:
    assert ngrams().ids(text).tolist() == [0] * SHORTEST


def test_each_run_of_characters_counts_with_the_spaces_around_the_text() -> None:
    # " ab ": a, b; " a", "ab", "b "; " ab", "ab "; " ab ".
    assert len(found(ngrams(), "ab")) == 8
    assert len(found(ngrams(2, 3), "ab")) == 5
    assert len(found(ngrams(5, 9), "ab")) == 0


def test_equal_runs_are_one_feature_wherever_they_are() -> None:
    three = ngrams(3, 3)
    assert set(found(three, "abcxyzabc")) >= set(found(three, "zabc")) & set(found(three, "abcx"))
    counted = found(three, "weather and weather")
    assert len(set(counted)) < len(counted)


def test_different_runs_hardly_ever_share_a_feature() -> None:
    texts = [f"{chr(first)}{chr(second)}" for first in range(0x4E00, 0x4E20) for second in range(0x4E00, 0x4E20)]
    middles = {text: int(ngrams(2, 2).ids(text)[1]) for text in texts}
    # 1024 runs in 32768 buckets: about 16 pairs would share one by chance.
    assert len(set(middles.values())) > 1024 - 40


def test_order_case_width_and_composition() -> None:
    assert found(ngrams(), "ab") != found(ngrams(), "ba")
    assert found(ngrams(), "STRASSE") == found(ngrams(), "straße")
    assert found(ngrams(casefold=False), "A") != found(ngrams(casefold=False), "a")
    assert found(ngrams(), "ＡＢ１２") == found(ngrams(), "ab12")
    assert found(ngrams(), "e\u0301") == found(ngrams(), "\u00e9")


def test_spaces_of_any_kind_and_number_are_one() -> None:
    assert found(ngrams(), "  zwei\n\tWorte\u3000") == found(ngrams(), "zwei Worte")


def test_what_stands_beyond_the_limit_is_not_looked_at_even_where_characters_grow() -> None:
    short = ngrams(max_characters=10)
    assert found(short, "0123456789abc") == found(short, "0123456789")
    grows_eighteenfold = "\ufdfa" * 10
    assert len(short.ids(grows_eighteenfold)) <= 64
    assert len(short.ids("ß" * 10)) <= 64


def test_characters_that_are_no_text_are_taken_as_they_are() -> None:
    assert len(found(ngrams(), "\ud800\U0001f600\x00")) > 0


def test_the_features_of_a_text_are_these_in_every_process() -> None:
    """Bundles hold rows for them: another hash would make every one of them wrong."""
    expected = "[13100, 17879, 31292, 23397, 3102, 2277, 27105, 613, 0, 0, 0, 0, 0, 0, 0, 0]"
    program = (
        "from services.language.features import Ngrams; from services.kit.inference.manifest import NgramFeatures;"
        "print(Ngrams(NgramFeatures(buckets=32768)).ids('Hé').tolist())"
    )
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert process.stdout.strip() == expected, process.stderr


def test_a_hundred_characters_take_microseconds() -> None:
    """About 30 here; the limit leaves room for a busy machine."""
    text, of = "Die schnelle braune Füchsin springt über den faulen Hund und läuft in den Wald. " * 2, ngrams()
    best = min(_seconds(of, text[:100]) for _ in range(50))
    assert best < 400e-6


def _seconds(of: Ngrams, text: str) -> float:
    started = time.perf_counter()
    of.ids(text)
    return time.perf_counter() - started
