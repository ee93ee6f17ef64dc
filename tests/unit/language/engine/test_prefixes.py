import numpy as np

from services.language.engine.cache import Cache
from services.language.engine.prefixes import BLOCK, Prefixes

TOKENS = list(range(100))


SLOT = 2


def texts() -> Cache:
    """A slot of a text whose every token has its number."""
    cache = Cache(2, 1, 1, 4 * 100, 100, "FP32", 100)
    cache.write(SLOT, 0, np.arange(100, dtype=np.float32).reshape(1, 1, -1, 1).repeat(2, 0))
    return cache


def prefixes_of(blocks: int) -> Prefixes:
    return Prefixes(texts(), Cache(2, 1, 1, blocks * BLOCK, BLOCK, "FP32", BLOCK))


def known(prefixes: Prefixes, tokens: list[int]) -> int:
    return len(prefixes.longest(tokens)) * BLOCK


def test_whole_blocks_of_a_beginning_come_again() -> None:
    prefixes = prefixes_of(99)
    prefixes.keep(TOKENS[:40], SLOT)
    assert known(prefixes, TOKENS) == 32
    prefixes.put(0, prefixes.longest(TOKENS))
    assert prefixes._texts.read(0, 0, 32)[1].ravel().tolist() == list(range(32))
    assert known(prefixes, [*TOKENS[:20], *TOKENS[:20]]) == 16
    assert known(prefixes, [7, *TOKENS]) == 0


def test_at_least_one_token_is_left_to_compute() -> None:
    prefixes = prefixes_of(99)
    prefixes.keep(TOKENS[:32], SLOT)
    assert known(prefixes, TOKENS[:32]) == 16
    assert known(prefixes, TOKENS[:33]) == 32


def test_equal_blocks_after_other_beginnings_are_other_blocks() -> None:
    prefixes = prefixes_of(99)
    prefixes.keep([*range(16), *range(16)], SLOT)
    assert known(prefixes, [*range(16, 32), *range(16), 0]) == 0


def test_memory_is_bounded_and_what_was_used_last_stays() -> None:
    prefixes = prefixes_of(4)
    prefixes.keep(TOKENS[:32], SLOT)
    prefixes.keep([200, *TOKENS[:31]], SLOT)
    assert known(prefixes, TOKENS[:33]) == 32
    prefixes.keep([300, *TOKENS[:31]], SLOT)
    assert known(prefixes, [*TOKENS[:32], 0]) == 32
    assert known(prefixes, [200, *TOKENS[:31], 0]) == 0


def test_of_a_beginning_too_long_for_the_memory_its_first_blocks_stay() -> None:
    prefixes = prefixes_of(2)
    prefixes.keep(TOKENS, SLOT)
    assert known(prefixes, TOKENS) == 2 * BLOCK
