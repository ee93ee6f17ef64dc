"""Decoder: image files to pixels in a few threads of its own, so that the event loop never waits for Pillow."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from services.kit.deadline import Deadline
from services.kit.errors import DeadlineExpired, DeadlineUnreachable, ImageUnreadable, InputTooLarge, Overloaded
from services.kit.inference.bundle import Array
from services.kit.inference.manifest import ImagePreprocessing
from services.kit.settings import setting
from services.vision import fitting, image_file

# A JPEG is decoded at a fraction of its size while both sides stay this many times as long as the model's.
DRAFT_MARGIN = 2
WEIGHT = 0.1  # of the newest decode in the moving average


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """What an image may cost. A thread takes up to 16 bytes of memory for each pixel of the image it decodes."""

    max_bytes: int = setting(16 * 1024 * 1024, low=1)  # of one file
    max_pixels: int = setting(40_000_000, low=1)  # width times height
    threads: int = setting(0, low=0)  # decodes at a time; 0: one for each core
    max_queue: int = setting(256, low=0)  # images waiting; the next one is refused with QUEUE_FULL


class Decoder:
    """Decodes a few images at a time; the others wait in the order in which they came.

    A caller that leaves while it waits costs nothing any more. A decode that has begun runs to its end, as threads do.
    """

    def __init__(self, settings: DecoderSettings) -> None:
        self._settings = settings
        self._threads = settings.threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decoder")
        self._free = asyncio.Semaphore(self._threads)
        self._average_s = 0.0
        self.waiting = 0  # images that no thread has taken yet
        image_file.configure_pillow(settings.max_pixels)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: DecoderSettings) -> AsyncIterator["Decoder"]:
        """A decoder whose threads end with the block."""
        decoder = cls(settings)
        try:
            yield decoder
        finally:
            await asyncio.get_running_loop().run_in_executor(None, decoder._pool.shutdown)

    async def decode(self, data: bytes, steps: ImagePreprocessing, deadline: Deadline) -> Array:
        """The image as a model wants it: uint8 [height, width, channels].

        Raises:
            ImageUnreadable: no bytes, no image or a damaged one.
            InputTooLarge: more bytes or pixels than the limits.
            Overloaded: `max_queue` images are waiting already.
            DeadlineUnreachable: this image and those before it would take longer than the time left.
            DeadlineExpired: the deadline passed before a thread was free.
        """
        self._admit(data, deadline)
        await self._turn()
        if deadline.expired():
            self._free.release()
            raise DeadlineExpired("the deadline passed while the image waited to be decoded", executed="no")
        work = self._pool.submit(_decode, data, steps, self._settings.max_pixels)
        try:
            pixels, seconds = await asyncio.wrap_future(work)
        finally:
            self._release_after(work)
        self._average_s += WEIGHT * (seconds - self._average_s) if self._average_s else seconds
        return pixels

    def _admit(self, data: bytes, deadline: Deadline) -> None:
        limits = self._settings
        if not data:
            raise ImageUnreadable("image is empty; it holds the bytes of a file", field="image", value="0")
        if len(data) > limits.max_bytes:
            raise InputTooLarge(
                f"the image has {len(data)} bytes and the limit is {limits.max_bytes}",
                field="image",
                limit=str(limits.max_bytes),
                value=str(len(data)),
            )
        if not self._free.locked():
            return
        wait_s = self._average_s * (self.waiting + 1) / self._threads
        if self.waiting >= limits.max_queue:
            raise Overloaded(
                f"{self.waiting} images wait to be decoded and the limit is {limits.max_queue}",
                retry_after_s=wait_s,
                limit=str(limits.max_queue),
                value=str(self.waiting),
            )
        done_s, remaining_s = wait_s + self._average_s, deadline.remaining_s()
        if remaining_s <= 0:
            raise DeadlineExpired("the deadline passed before the image was looked at", executed="no")
        if done_s > remaining_s:
            raise DeadlineUnreachable(
                f"decoding would take about {done_s * 1e3:.1f} ms and the deadline is in {remaining_s * 1e3:.1f} ms",
                retry_after_s=wait_s,
                limit_ms=f"{remaining_s * 1e3:.1f}",
                value_ms=f"{done_s * 1e3:.1f}",
            )

    async def _turn(self) -> None:
        """Returns when a thread is free for the caller."""
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1

    def _release_after(self, work: "Future[tuple[Array, float]]") -> None:
        """Frees the thread, at the end of the work where its caller has left before."""
        if work.done():
            self._free.release()
            return
        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))


def _decode(data: bytes, steps: ImagePreprocessing, max_pixels: int) -> tuple[Array, float]:
    """The pixels and the seconds that they took."""
    started = time.monotonic()
    enough = DRAFT_MARGIN * max(steps.width, steps.height)
    image = image_file.read(data, fitting.mode(steps), max_pixels, enough)
    return fitting.fit(image, steps), time.monotonic() - started
