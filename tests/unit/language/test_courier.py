"""Calls from a thread to the event loop."""

import asyncio
import threading

from services.language.courier import Courier


async def test_calls_arrive_in_the_event_loop_in_order_and_all_of_them_before_it_is_closed() -> None:
    found: list[tuple[int, int]] = []
    courier = Courier(asyncio.get_running_loop())

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
    courier = Courier(asyncio.get_running_loop())

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


async def test_a_call_that_fails_takes_none_of_the_others_along() -> None:
    found, failures = list[int](), list[BaseException]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    courier = Courier(loop)
    courier.tell(found.append, 0)
    courier.tell(found.__delitem__, 7)
    courier.tell(found.append, 1)
    courier.close()
    await asyncio.sleep(0)
    assert (found, [type(failure) for failure in failures]) == ([0, 1], [IndexError])
