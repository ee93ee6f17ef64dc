"""The decoder bounds what an image may cost, and what nobody waits for costs nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from services.kit.deadline import Deadline
from services.kit.errors import DeadlineExpired, DeadlineUnreachable, ImageUnreadable, InputTooLarge, Overloaded
from services.kit.inference.manifest import ImagePreprocessing
from services.vision import image_file
from services.vision.decoder import Decoder, DecoderSettings
from tests.unit.vision.images import file_of, gradient

STEPS = ImagePreprocessing("image", width=8, height=4, channels="rgb", layout="NHWC", datatype="UINT8")
PICTURE = file_of(gradient(16, 8))
NEVER = Deadline()


class Gate:
    """Holds every decode until it is opened, and counts those that have begun."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun: list[bytes] = []
        self._read = image_file.read

    def read(self, data: bytes, *arguments: object) -> object:
        self.begun.append(data)
        self.opened.wait(10)
        return self._read(data, *arguments)  # type: ignore[arg-type]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(image_file, "read", gate.read)
    yield gate
    gate.opened.set()


@pytest.fixture
async def decoder() -> AsyncIterator[Decoder]:
    async with Decoder.open(DecoderSettings(threads=1, max_queue=2, max_bytes=1000, max_pixels=200)) as decoder:
        yield decoder


async def settled() -> None:
    """Lets every task that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


def decoding(decoder: Decoder, deadline: Deadline = NEVER, data: bytes = PICTURE) -> "asyncio.Task[object]":
    return asyncio.create_task(decoder.decode(data, STEPS, deadline))


async def test_a_file_becomes_pixels_of_the_models_size(decoder: Decoder) -> None:
    pixels = await decoder.decode(PICTURE, STEPS, NEVER)
    assert pixels.shape == (4, 8, 3)
    assert pixels.dtype == np.uint8


async def test_an_empty_file_names_the_field(decoder: Decoder) -> None:
    with pytest.raises(ImageUnreadable, match="image is empty") as caught:
        await decoder.decode(b"", STEPS, NEVER)
    assert caught.value.metadata["field"] == "image"


async def test_a_file_of_too_many_bytes_is_refused_with_limit_and_value(decoder: Decoder, gate: Gate) -> None:
    with pytest.raises(InputTooLarge) as caught:
        await decoder.decode(bytes(1001), STEPS, NEVER)
    assert caught.value.metadata == {"field": "image", "limit": "1000", "value": "1001"}
    assert gate.begun == []


async def test_a_file_of_too_many_pixels_is_refused(decoder: Decoder) -> None:
    with pytest.raises(InputTooLarge):
        await decoder.decode(file_of(gradient(20, 11)), STEPS, NEVER)


async def test_a_failed_decode_frees_its_thread(decoder: Decoder) -> None:
    for _ in range(3):
        with pytest.raises(ImageUnreadable):
            await decoder.decode(b"no image", STEPS, NEVER)
    await decoder.decode(PICTURE, STEPS, NEVER)


async def test_no_more_decodes_run_than_there_are_threads_and_no_more_wait_than_the_limit(
    decoder: Decoder, gate: Gate
) -> None:
    tasks = [decoding(decoder) for _ in range(3)]
    await settled()
    assert decoder.waiting == 2
    with pytest.raises(Overloaded) as caught:
        await decoder.decode(PICTURE, STEPS, NEVER)
    assert caught.value.metadata == {"limit": "2", "value": "2"}
    assert caught.value.retry_after_s is not None
    assert len(gate.begun) == 1
    gate.opened.set()
    assert len(await asyncio.gather(*tasks)) == 3
    assert decoder.waiting == 0


async def test_images_are_decoded_in_the_order_in_which_they_came(decoder: Decoder, gate: Gate) -> None:
    pictures = [file_of(gradient(width, 4)) for width in (9, 10, 11)]
    tasks = [decoding(decoder, data=picture) for picture in pictures]
    await settled()
    gate.opened.set()
    await asyncio.gather(*tasks)
    assert gate.begun == pictures


async def test_a_caller_that_leaves_while_waiting_costs_nothing_and_makes_room(decoder: Decoder, gate: Gate) -> None:
    first, second, third = (decoding(decoder, data=file_of(gradient(width, 4))) for width in (9, 10, 11))
    await settled()
    second.cancel()
    await settled()
    assert decoder.waiting == 1
    gate.opened.set()
    await asyncio.gather(first, third)
    assert len(gate.begun) == 2


async def test_a_thread_whose_caller_has_left_is_free_when_its_work_ends_and_not_before(
    decoder: Decoder, gate: Gate
) -> None:
    left = decoding(decoder)
    await settled()
    left.cancel()
    waiting = decoding(decoder)
    await settled()
    assert (len(gate.begun), decoder.waiting) == (1, 1)
    gate.opened.set()
    await waiting
    assert len(gate.begun) == 2


async def test_an_image_whose_deadline_passes_while_it_waits_is_not_decoded(decoder: Decoder, gate: Gate) -> None:
    first, late = decoding(decoder), decoding(decoder, Deadline.after(0.02))
    await settled()
    threading.Timer(0.05, gate.opened.set).start()
    with pytest.raises(DeadlineExpired) as caught:
        await late
    assert caught.value.metadata["executed"] == "no"
    await first
    assert len(gate.begun) == 1


async def test_an_image_that_cannot_be_done_in_time_is_refused_at_the_door(
    decoder: Decoder, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = decoding(decoder)
    await settled()
    monkeypatch.setattr(decoder, "_average_s", 5.0)
    with pytest.raises(DeadlineUnreachable, match=r"about 10000\.0 ms") as caught:
        await decoder.decode(PICTURE, STEPS, Deadline.after(9.0))
    assert caught.value.retry_after_s == 5.0
    in_time = decoding(decoder, Deadline.after(11.0))
    gate.opened.set()
    await asyncio.gather(first, in_time)


async def test_a_free_thread_tries_even_if_others_took_long(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_average_s", 5.0)
    await decoder.decode(PICTURE, STEPS, Deadline.after(1.0))


async def test_closing_waits_for_the_work_at_hand(gate: Gate) -> None:
    async with Decoder.open(DecoderSettings(threads=1)) as decoder:
        left = decoding(decoder)
        await settled()
        left.cancel()
        threading.Timer(0.02, gate.opened.set).start()
    await settled()
    assert gate.opened.is_set()
