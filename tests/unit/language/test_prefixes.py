import numpy as np

from services.kit.inference.bundle import Array
from services.language.prefixes import BLOCK, Prefixes

TOKENS = list(range(100))


def read(begin: int, end: int) -> Array:
    return np.arange(begin, end, dtype=np.float32).reshape(1, 1, -1, 1)


def known(prefixes: Prefixes[Array], tokens: list[int]) -> int:
    return len(prefixes.longest(tokens)) * BLOCK


def test_whole_blocks_of_a_beginning_come_again() -> None:
    prefixes: Prefixes[Array] = Prefixes(1 << 20)
    prefixes.keep(TOKENS[:40], read)
    assert known(prefixes, TOKENS) == 32
    assert np.array_equal(np.concatenate(prefixes.longest(TOKENS), axis=2), read(0, 32))
    assert known(prefixes, [*TOKENS[:20], *TOKENS[:20]]) == 16
    assert known(prefixes, [7, *TOKENS]) == 0


def test_at_least_one_token_is_left_to_compute() -> None:
    prefixes: Prefixes[Array] = Prefixes(1 << 20)
    prefixes.keep(TOKENS[:32], read)
    assert known(prefixes, TOKENS[:32]) == 16
    assert known(prefixes, TOKENS[:33]) == 32


def test_equal_blocks_after_other_beginnings_are_other_blocks() -> None:
    prefixes: Prefixes[Array] = Prefixes(1 << 20)
    prefixes.keep([*range(16), *range(16)], read)
    assert known(prefixes, [*range(16, 32), *range(16), 0]) == 0


def test_memory_is_bounded_and_what_was_used_last_stays() -> None:
    prefixes: Prefixes[Array] = Prefixes(4 * BLOCK * 4)
    prefixes.keep(TOKENS[:32], read)
    prefixes.keep([200, *TOKENS[:31]], read)
    assert known(prefixes, TOKENS[:33]) == 32
    prefixes.keep([300, *TOKENS[:31]], read)
    assert prefixes.bytes <= 4 * BLOCK * 4
    assert known(prefixes, [*TOKENS[:32], 0]) == 32
    assert known(prefixes, [200, *TOKENS[:31], 0]) == 0


def test_none_are_kept_without_memory() -> None:
    prefixes: Prefixes[Array] = Prefixes(0)
    prefixes.keep(TOKENS, read)
    assert known(prefixes, TOKENS) == 0


def test_of_a_beginning_too_long_for_the_memory_its_first_blocks_stay() -> None:
    prefixes: Prefixes[Array] = Prefixes(2 * BLOCK * 4)
    prefixes.keep(TOKENS, read)
    assert known(prefixes, TOKENS) == 2 * BLOCK
