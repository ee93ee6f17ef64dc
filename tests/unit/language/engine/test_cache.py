from functools import partial

import numpy as np
import pytest

from services.kit.inference.bundle import Array
from services.language.engine.cache import Blank, Cache
from services.language.engine.cuda import Cuda
from services.language.engine.cuda_storage import CudaStorage
from services.language.engine.storage import HostStorage
from tests.unit.language.engine.cuda import Runtime

HEADS, WIDTH, BLOCKS = 3, 2, 4


@pytest.fixture(params=["host", "gpu"])
def cache(request: pytest.FixtureRequest) -> Cache:
    blank: Blank = HostStorage if request.param == "host" else partial(CudaStorage, Cuda(Runtime(), 0))
    return Cache(BLOCKS, HEADS, WIDTH, capacity=8 * 64, longest=48, precision="FP32", smallest=4, blank=blank)


def values(seed: int, tokens: int) -> Array:
    return np.random.default_rng(seed).normal(size=(BLOCKS, HEADS, tokens, WIDTH)).astype(np.float32)


def test_rows_keep_what_they_have_when_the_room_changes(cache: Cache) -> None:
    used = [3, 1, 0, 4]
    rows = [values(row, count) for row, count in enumerate(used)]
    for row, content in enumerate(rows):
        cache.write(row, 0, content)
    for needed in (5, 9, 40, 48, 12, 4, 33, 1):
        cache.settle(needed, used)
        assert cache.size >= max(needed, *used)
        for row, content in enumerate(rows):
            assert np.array_equal(cache.read(row, 0, used[row]), content)


def test_the_room_grows_at_once_and_shrinks_late(cache: Cache) -> None:
    cache.settle(5, [])
    assert cache.size == 8
    cache.settle(17, [])
    assert cache.size == 32
    cache.settle(9, [])
    assert cache.size == 32
    cache.settle(8, [])
    assert cache.size == 8


def test_the_largest_room_is_what_a_text_may_have(cache: Cache) -> None:
    assert [cache.room(tokens) for tokens in (1, 4, 5, 33, 48)] == [4, 4, 8, 48, 48]
    assert cache.rooms == [4, 8, 16, 32, 48]


def test_there_is_room_for_whole_products() -> None:
    cache = Cache(2, 1, 1, capacity=1, longest=50, precision="FP32")
    assert cache.rooms == [64]
    assert cache.rows(50) == 1


def test_a_row_moves(cache: Cache) -> None:
    content = values(1, 4)
    cache.write(3, 0, content)
    cache.move(3, 1, 4)
    assert np.array_equal(cache.read(1, 0, 4), content)


def test_some_tokens_of_a_row_go_to_another_place_of_another_cache_and_back(cache: Cache) -> None:
    content = values(1, 4)
    cache.write(3, 0, content)
    other = Cache(BLOCKS, HEADS, WIDTH, 9, 3, "FP32", 3, _blank_of(cache))
    other.take(2, 0, cache, 3, 1, 3)
    cache.settle(20, [0, 0, 0, 4])
    cache.write(3, 0, 0 * content)
    cache.take(2, 7, other, 2, 0, 3)
    assert np.array_equal(cache.read(2, 7, 10), content[:, :, 1:])


def test_a_row_is_cleared_and_no_other_one(cache: Cache) -> None:
    cache.settle(8, [])
    for row in range(3):
        cache.write(row, 0, values(row, 8))
    cache.clear(1)
    assert not cache.read(1, 0, 8).any()
    for row in (0, 2):
        assert np.array_equal(cache.read(row, 0, 8), values(row, 8))


def test_a_row_of_another_cache_is_taken(cache: Cache) -> None:
    other = Cache(BLOCKS, HEADS, WIDTH, 64, 16, "FP32", smallest=8, blank=_blank_of(cache))
    content = values(2, 6)
    other.write(1, 0, content)
    cache.settle(20, [])
    cache.take(2, 0, other, 1, 0, 6)
    assert np.array_equal(cache.read(2, 0, 6), content)


def _blank_of(cache: Cache) -> Blank:
    return lambda blocks, numbers, dtype: cache.storage.like(numbers)


def test_memory_that_is_reserved_is_not_exceeded(cache: Cache) -> None:
    assert cache.rows(48) == 8 * 64 // 48
    assert cache.rows(30) == 8 * 64 // 32


def test_room_that_a_long_text_had_goes_when_more_rows_need_the_memory(cache: Cache) -> None:
    cache.settle(48, [0] * 8)
    cache.settle(30, [9] * 10)
    assert cache.size == 48
    cache.settle(30, [*[9] * 10, 0])
    assert cache.size == 32


def test_there_is_always_memory_for_one_text() -> None:
    assert Cache(2, 1, 1, capacity=1, longest=50, precision="FP32").rows(50) == 1


def test_addresses_are_those_of_the_rows(cache: Cache) -> None:
    cache.settle(8, [])
    distances = {second - first for first, second in zip(cache.addresses(0), cache.addresses(2), strict=True)}
    assert distances == {2 * HEADS * 8 * WIDTH * 4}
