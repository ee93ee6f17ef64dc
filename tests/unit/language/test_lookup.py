"""Drafts come from where the last tokens stood before, and grow while they are right."""

import random
from collections.abc import Sequence

import pytest

from services.language.lookup import EARLY, FIRST, LATER, MISSES, START, PromptLookup
from tests.unit.language.scheduling import text


def drafted(tokens: list[int], most: int = 2) -> list[int]:
    lookup = PromptLookup()
    lookup.add(tokens)
    return lookup.draft(most)


@pytest.mark.parametrize(
    ("tokens", "draft"),
    [
        ([], []),
        ([1], []),
        ([1, 2, 3], []),  # nothing stood before
        ([1, 7, 8, 9, 1], [7, 8]),
        ([1, 2, 3, 5, 6, 9, 2, 3, 7, 8, 1, 2, 3], [5, 6]),  # three tokens rather than two of them
        ([2, 3, 5, 6, 9, 4, 3, 7, 8, 2, 3], [5, 6]),  # two rather than one
        ([3, 5, 6, 3, 7, 8, 3], [7, 8]),  # where they stood last
        ([1, 2, 1, 2], [1, 2]),
        ([9, 4, 4], [4, 4]),  # what repeats goes on
        ([5, 1, 2, 3, 1], [2, 3]),
    ],
)
def test_a_draft_is_what_stood_behind_the_last_tokens(tokens: list[int], draft: list[int]) -> None:
    assert drafted(tokens) == draft


def test_tokens_may_come_in_pieces() -> None:
    tokens = [1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 1, 2]
    for cut in range(len(tokens) + 1):
        lookup = PromptLookup()
        lookup.add(tokens[:cut])
        lookup.draft(4)
        lookup.add(tokens[cut:])
        assert (lookup.known, lookup.draft(2)) == (len(tokens), drafted(tokens))


def test_a_draft_is_no_longer_than_it_may_be() -> None:
    assert [len(drafted([4, 4, 4], most)) for most in range(4)] == [0, 1, 2, FIRST]


def test_others_wait_only_for_drafts_of_a_text_whose_guesses_are_right() -> None:
    lookup, drafted = PromptLookup(), []
    for token in [4] * 12 + [5, 4, 6, 4, 7, 4, 8, 4] + [4] * 12:
        lookup.add([token])
        drafted.append(bool(lookup.draft(2, sure=0.75)))
    assert drafted[:5] == [False] * 5  # it has guessed too little
    assert drafted[5:12] == [True] * 7
    assert drafted[18:30] == [False] * 12  # wrong guesses, and then too few right ones
    assert drafted[-2:] == [True] * 2


def test_drafts_grow_while_they_are_right_and_shrink_where_they_are_not() -> None:
    lookup = PromptLookup()
    lookup.add([4, 4])
    lengths = []
    for right in (True, True, True, False, False, True, False, False, False, False, False, False):
        lengths.append(len(lookup.draft(64)))
        lookup.came(lengths[-1], lengths[-1] if right else 0)
    assert lengths == [2, 3, 4, 5, 4, 3, 4, 3, 2, 1, 1, 1]


def test_drafts_shrink_at_once_however_many_of_them_were_right() -> None:
    lookup = PromptLookup()
    lookup.add([4, 4])
    lengths = []
    for step in range(54):
        lengths.append(len(lookup.draft(4)))
        lookup.came(lengths[-1], lengths[-1] if step < 50 else 0)
    assert lengths[-5:] == [4, 4, 3, 2, 1]


def test_a_text_that_repeats_nothing_is_looked_at_less_often_until_it_does() -> None:
    lookup = PromptLookup()
    for token in range(MISSES):
        assert lookup.due(0.0) == 1
        lookup.add([token])
    assert lookup.draft(2) == []
    assert lookup.due(0.0) == LATER
    lookup.add([0, 1])
    assert lookup.draft(2) == [2, 3]
    assert lookup.due(0.0) == 1


@pytest.mark.parametrize(
    ("tokens", "due"),
    [
        (range(100), LATER),  # nothing of it stood before
        (range(MISSES), LATER),
        (range(MISSES - 1), 1),  # too few tokens to say
        ([*range(30), 5, 40], 1),  # what stands behind 5 is foretold
        ([*range(30), 5, *range(40, 40 + MISSES)], 1),
        ([*range(30), 5, *range(40, 41 + MISSES)], LATER),
    ],
)
def test_a_prompt_that_repeats_nothing_at_its_end_says_when_to_look(tokens: Sequence[int], due: int) -> None:
    """And nothing of how good guesses are, which it is not known for yet."""
    lookup = PromptLookup()
    lookup.add(list(tokens))
    assert lookup.due(START) == due
    assert lookup.due(START + 0.01) == LATER


def test_a_text_whose_guesses_are_wrong_is_looked_at_less_often_until_they_are_right() -> None:
    lookup = PromptLookup()
    lookup.add([4])
    for token in range(10, 20):
        lookup.add([token, 4])
    assert lookup.due(0.6) == LATER
    assert lookup.draft(2, 0.6) == []
    lookup.add([4] * 12)
    assert lookup.due(0.6) == 1
    assert lookup.draft(2, 0.6) == [4, 4]


def test_what_is_learnt_does_not_depend_on_how_often_it_is_looked() -> None:
    source = random.Random(1)
    tokens = [source.randrange(5) for _ in range(200)]
    found = []
    for piece in (1, 3, LATER):
        lookup = PromptLookup()
        lookup.add(tokens[:8])
        for at in range(8, 200, piece):
            lookup.add(tokens[at : at + piece])
        found.append([lookup.draft(3, sure / 100) for sure in range(100)])
    assert found[1:] == found[:1] * 2
    assert [] in found[0]
    assert found[0][0] != []


def test_a_text_asks_seldom_where_nothing_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    own, asked = PromptLookup.draft, list[int]()

    def draft(lookup: PromptLookup, most: int, sure: float) -> list[int]:
        asked.append(lookup.known)
        return own(lookup, most, sure)

    monkeypatch.setattr(PromptLookup, "draft", draft)
    one = text([0], 90)
    for token in range(1, 60):
        one.take((token,))
        one.draft(2, 0.0)
    assert asked == [*range(2, MISSES + 1), *range(MISSES + LATER - EARLY, 60, LATER - EARLY)]
