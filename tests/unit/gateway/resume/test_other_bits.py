"""What goes on prefers an instance where the known answers of its bundle are the same bits, and counts the others."""

import pytest

from gateway.methods import MODEL_INFER
from gateway.resume.generate import GENERATE
from gateway.resume.track import TRACK
from services.kit.errors import Overloaded
from tests.unit.gateway.fakes import Gateway, broken, model, refused
from tests.unit.gateway.resume import fakes, steps, writers
from tests.unit.gateway.resume.writers import Reader, Writer, told

ALIKE, OTHER = writers.bundle(answers="a1"), writers.bundle(answers="a2")


def other_bits(gateway: Gateway, method: str) -> float:
    return gateway.registry.get_sample_value("trivium_gateway_resumes_on_other_bits_total", {"method": method}) or 0


@pytest.mark.parametrize("at", range(1, 9))
async def test_a_text_goes_on_where_it_is_computed_to_the_bit_however_busy_that_one_is(at: int) -> None:
    first, alike = Writer("first", ALIKE), Writer("alike", ALIKE)
    others = [Writer(f"other {number}", OTHER) for number in range(8)]
    first.endpoint.in_flight, alike.endpoint.in_flight = -1, 100
    reader = Reader([first, *others, alike])
    reader.publish(first)
    first.fails[at + 1] = broken()
    found = [await reader.next() for _ in range(at)]
    reader.publish(*others, alike)
    found += await reader.rest()
    assert found == await told([Writer()])
    assert (len(alike.got), sum(len(one.got) for one in others)) == (1, 0)
    assert other_bits(reader.gateway, GENERATE) == 0
    assert alike.endpoint.in_flight == 100
    alike.endpoint.in_flight = 0
    await reader.close()


async def test_where_there_is_none_another_one_goes_on_and_that_is_counted_once() -> None:
    first, other, same = Writer("first", ALIKE), Writer("other", OTHER), Writer("same", OTHER)
    reader = Reader([first, other, same])
    reader.publish(first)
    first.fails[3] = broken()
    found = [await reader.next(), await reader.next()]
    other.fails = same.fails = {3: broken()}  # of the one that gets so far first
    reader.publish(other, same)
    found += await reader.rest()
    assert found == await told([Writer()])
    assert (len(other.got), len(same.got)) == (1, 1)
    assert other_bits(reader.gateway, GENERATE) == 1
    await reader.close()


async def test_one_that_has_no_place_is_none() -> None:
    first, alike, other = Writer("first", ALIKE), Writer("alike", ALIKE), Writer("other", OTHER)
    reader = Reader([first, alike, other])
    reader.publish(first)
    first.fails[2] = broken()
    alike.always = refused(Overloaded("full"))
    found = [await reader.next()]
    reader.publish(alike, other)
    assert found + await reader.rest() == await told([Writer()])
    assert (len(alike.got), len(other.got)) == (1, 1)
    await reader.close()


@pytest.mark.parametrize("answers", ["", "a2"])
async def test_where_the_first_one_tells_none_all_are_alike(answers: str) -> None:
    reader = Reader([one := Writer("one"), other := Writer("other", writers.bundle(answers=answers))])
    reader.publish(one)
    one.fails[2] = broken()
    found = [await reader.next()]
    reader.publish(other)
    assert found + await reader.rest() == await told([Writer()])
    assert other_bits(reader.gateway, GENERATE) == 0
    await reader.close()


async def test_what_has_not_begun_goes_anywhere() -> None:
    one, other = Writer("one", ALIKE), Writer("other", OTHER)
    one.fails = other.fails = {1: broken()}
    reader = Reader([one, other])
    await reader.rest()
    assert (len(one.got), len(other.got)) == (1, 1)
    assert other_bits(reader.gateway, GENERATE) == 0
    await reader.close()


async def test_a_stream_goes_on_where_it_is_computed_to_the_bit() -> None:
    def instance(name: str, answers: str) -> fakes.Instance:
        return fakes.Instance(name, model("sums", 1, digest="d1", answers=answers, stateful=True))

    first, alike, other = instance("first", "a1"), instance("alike", "a1"), instance("other", "a2")
    caller = fakes.Caller([first, alike, other])
    caller.publish(first)
    first.fails[2], alike.fails[2] = broken(), broken()
    caller.send(fakes.message(1, model="sums"))
    await caller.next()
    caller.publish(alike, other)
    for value in (2, 3):
        caller.send(fakes.message(value))
        await caller.next()
    assert (alike.streams, other.streams) == (1, 1)
    assert other_bits(caller.gateway, TRACK) == 1
    await caller.close()


async def test_the_steps_of_a_sequence_stay_where_they_are_computed_to_the_bit() -> None:
    instances = [steps.Instance(name) for name in ("first", "alike", "other", "another")]
    first, alike, other, another = instances
    for one, answers in zip(instances, ("a1", "a1", "a2", "a2"), strict=True):
        one.endpoint.models = (model("sums", 1, digest="d1", answers=answers, stateful=True),)
    caller = steps.Caller(*instances)
    routes = caller.gateway.routes
    routes.publish([first.endpoint], answered=True)
    await caller.infer(steps.request(1, start=True))
    routes.publish([one.endpoint for one in instances], answered=True)
    for value in range(10):
        await caller.infer(steps.request(value))
    assert (len(first.got) + len(alike.got), len(other.got) + len(another.got)) == (11, 0)
    routes.publish([other.endpoint, another.endpoint], answered=True)
    for value in range(3):
        await caller.infer(steps.request(value))
    assert other_bits(caller.gateway, MODEL_INFER) == 1
    await caller.close()
