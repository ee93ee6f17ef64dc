"""Texts by ModelStreamInfer are written side by side, and one that has begun is not begun again."""

from tests.unit.gateway.fakes import fake
from tests.unit.gateway.streaming import Writing, first, writing


async def test_texts_are_written_side_by_side_and_end_with_an_empty_last_answer() -> None:
    one, told = writing("one")
    caller = Writing(one)
    caller.ask("a", "b")
    for sent in ("a", "b", "b", "a", "b.", "a", "a."):
        told.put_nowait(sent)
        assert await caller.next() == (sent.removesuffix("."), sent.endswith("."))
    await caller.end()
    assert one.in_flight == 0


async def test_a_text_under_way_holds_one_place_of_the_window_and_nothing_else() -> None:
    one, told = writing("one")
    caller = Writing(one, window=2)
    caller.ask("long", "b", "c", "d")
    for short in ("b", "c", "d"):
        told.put_nowait("long")
        assert await caller.next() == ("long", False)
        told.put_nowait(f"{short}.")
        assert await caller.next() == (short, True)
    told.put_nowait("long.")
    assert await caller.next() == ("long", True)
    await caller.end()


async def test_a_text_that_has_begun_gets_an_error_when_its_instance_dies_and_one_that_has_not_goes_elsewhere() -> None:
    bad, told = writing("bad", breaks_after=1)
    good, more = writing("good")
    caller = Writing(first(bad), good)
    caller.ask("a", "b")
    told.put_nowait("a")
    assert await caller.next() == ("a", False)
    failed = await caller.next()
    assert (failed[0], "connection to bad failed" in str(failed[1])) == ("a", True)
    more.put_nowait("b.")
    assert await caller.next() == ("b", True)
    await caller.end()


async def test_of_texts_that_share_an_id_none_is_begun_again_when_one_of_them_has_begun() -> None:
    bad, told = writing("bad", breaks_after=2)
    good, more = writing("good")
    caller = Writing(first(bad), good)
    caller.ask("", "", "c")
    for sent in ("", "."):  # of which of the two, nobody can tell
        told.put_nowait(sent)
        assert await caller.next() == ("", sent == ".")
    assert "failed" in str((await caller.next())[1])
    more.put_nowait("c.")
    assert await caller.next() == ("c", True)
    assert fake(good).streamed == ["c"]
    await caller.end()
