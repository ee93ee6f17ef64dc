"""Calls from a thread to the event loop."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from services.language.courier import Courier


async def test_calls_arrive_in_the_event_loop_in_order_and_all_of_them_before_it_is_closed() -> None:
    found: list[tuple[int, int]] = []
    courier = Courier(asyncio.get_running_loop(), 0.0)

    def work() -> None:
        for number in range(1000):
            courier.tell(lambda number: found.append((number, threading.get_ident())), number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    courier.close()
    await asyncio.sleep(0)  # what the loop was told runs in its next turn
    assert found == [(number, threading.get_ident()) for number in range(1000)]


async def test_whoever_tells_does_not_wait_for_a_loop_that_is_busy() -> None:
    told, found = threading.Event(), list[int]()
    courier = Courier(asyncio.get_running_loop(), 0.0)

    def work() -> None:
        courier.tell(found.append, 1)
        told.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert told.wait(10)  # blocks the loop
    thread.join()
    courier.close()
    await asyncio.sleep(0)
    assert found == [1]


async def test_what_can_wait_comes_with_what_cannot_and_before_it() -> None:
    arrived = Arrived()
    courier = Courier(asyncio.get_running_loop(), 3600.0)
    courier.tell(arrived.put, 0)
    courier.tell_later(arrived.put, 1)
    courier.tell_later(arrived.put, 2)
    assert await arrived.after(1) == [0]
    courier.tell(arrived.put, 3)
    assert await arrived.after(4) == [0, 1, 2, 3]
    courier.close()


async def test_what_can_wait_does_so_no_longer_than_for_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("services.language.courier.time", SimpleNamespace(monotonic=lambda: clock[0]))
    arrived = Arrived()
    courier = Courier(asyncio.get_running_loop(), 0.05)
    courier.tell_later(arrived.put, 0)  # the first one
    courier.tell_later(arrived.put, 1)
    assert await arrived.after(1) == [0]
    clock[0] += 0.06
    courier.tell_later(arrived.put, 2)
    assert await arrived.after(3) == [0, 1, 2]
    courier.close()


async def test_a_call_that_fails_takes_none_of_the_others_along() -> None:
    arrived, failures = Arrived(), list[BaseException]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    courier = Courier(loop, 3600.0)
    courier.tell(arrived.put, 0)
    courier.tell_later(arrived.fail)
    courier.tell(arrived.put, 1)
    assert await arrived.after(2) == [0, 1]
    assert [type(failure) for failure in failures] == [ZeroDivisionError]
    courier.close()


class Arrived:
    """What came to the event loop."""

    def __init__(self) -> None:
        self._found: list[int] = []
        self._changed = asyncio.Event()

    def put(self, number: int) -> None:
        """One more."""
        self._found.append(number)
        self._changed.set()

    def fail(self) -> None:
        """None, and an error."""
        raise ZeroDivisionError

    async def after(self, count: int) -> list[int]:
        """All, once there are so many."""
        async with asyncio.timeout(10):
            while len(self._found) < count:
                await self._changed.wait()
                self._changed.clear()
        return self._found


async def test_what_waits_is_due_an_interval_after_what_went_before() -> None:
    courier = Courier(asyncio.get_running_loop(), 3600.0)
    courier.tell(lambda: None)
    gone = courier._gone
    assert courier.due > gone + 3600  # nothing waits: from now on
    courier.tell_later(lambda: None)
    assert courier.due == gone + 3600
    courier.close()
