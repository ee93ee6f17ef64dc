import pytest

from services.kit.errors import StartupError
from services.kit.inference.manifest import Generation
from services.language.engine.cache import Cache
from services.language.engine.memory import MIB, Memory, caches


def generation(**more: int) -> Generation:
    numbers = {"vocab": 100, "layers": 4, "heads": 8, "kv_heads": 2, "head_dim": 32, "max_tokens": 512} | more
    return Generation(begin=(1,), end=(2,), **numbers)  # type: ignore[arg-type]


def size(cache: Cache | None) -> int:
    return 0 if cache is None else cache.storage.nbytes


def test_a_model_without_an_encoder_has_one_cache_of_all_the_memory() -> None:
    cache, cross, stage, _ = caches(generation(), 8, 1000, "a")
    assert (cross, size(cache) + size(stage)) == (None, 8 * MIB)
    assert stage is not None
    assert (cache.capacity, stage.capacity) == (7 * MIB // (8 * 2 * 32 * 4), 512)


def test_beginnings_have_a_place_of_their_own_where_memory_and_length_are_worth_it() -> None:
    def staged(mib: int, *, recorded: bool = False, **more: int) -> int:
        stage = caches(generation(**more), mib, 1000, "a", recorded=recorded).stage
        return 0 if stage is None else stage.capacity

    assert [staged(mib) for mib in (1, 2, 3, 7, 8, 80)] == [0, 0, 192, 448, 512, 512]  # an eighth at most
    assert [staged(80, max_tokens=longest) for longest in (128, 256, 4096)] == [0, 256, 512]
    assert [staged(80, max_tokens=longest, recorded=True) for longest in (128, 256, 4096)] == [0, 256, 2048]
    assert staged(80, max_source=16) == 0


@pytest.mark.parametrize("longest", [130, 512, 4096, 16384])
def test_the_place_for_beginnings_is_part_of_the_memory_that_is_allowed(longest: int) -> None:
    needed = -(-longest // 512)  # MiB for one text
    for mib in range(needed, 3 * needed + 8):
        cache, _, stage, _ = caches(generation(max_tokens=longest), mib, 1000, "a")
        assert cache.capacity >= longest
        assert size(cache) + size(stage) <= mib * MIB


def test_no_more_is_reserved_than_so_many_texts_can_take() -> None:
    cache, cross, _, _ = caches(generation(max_source=128), 1 << 14, 3, "a")
    assert cross is not None
    assert (cache.capacity, cross.capacity) == (3 * 512, 3 * 128)


@pytest.mark.parametrize("mib", [2, 3, 5, 8, 40])
def test_texts_and_their_sources_share_the_memory_that_is_allowed(mib: int) -> None:
    cache, cross, _, _ = caches(generation(max_source=128), mib, 1000, "a")
    assert cross is not None
    assert mib * MIB * 0.97 < size(cache) + size(cross) <= mib * MIB
    memory = Memory(cache, cross)
    assert memory.texts(512, 128) == mib // 2  # text and source take a MiB each
    assert memory.texts(512, 1) == cache.rows(512)
    assert memory.texts(1, 128) == cross.rows(128)
    assert memory.capacity == cache.capacity + cross.capacity


def test_memory_for_less_than_one_text_is_refused_with_what_it_needs() -> None:
    caches(generation(max_source=1024), 9, 4, "a")
    with pytest.raises(
        StartupError, match=r"512 tokens with a source of 1024 needs 9 MiB .* and 8 are allowed"
    ) as error:
        caches(generation(max_source=1024), 8, 4, "a")
    assert "GENERATION__CACHE_MIB to 9" in error.value.hint


def test_beginnings_have_memory_of_their_own_in_whole_blocks() -> None:
    kept = caches(generation(), 8, 4, "a", prefix_mib=2).kept
    assert kept is not None
    assert 2 * MIB - kept.storage.nbytes // kept.rows(16) < size(kept) <= 2 * MIB
    assert caches(generation(), 8, 4, "a").kept is None
    assert caches(generation(max_source=16), 80, 4, "a", prefix_mib=2).kept is None
