"""Track: the method of SequenceService whose streams outlive the instance that has them."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from gateway.attempts import Dispatch
from gateway.resume.stream import Stream
from gateway.routes import Routes
from gateway.settings import ResumeSettings
from services.kit.call import Call
from services.kit.errors import TriviumError
from services.kit.transport.method import Method, raw

TRACK = "/trivium.sequence.v1.SequenceService/Track"


class Track:
    """The method, for a server's table.

    Args:
        hand_over_s: how long the answers in work may take when this gateway leaves.
    """

    def __init__(self, routes: Routes, dispatch: Dispatch, settings: ResumeSettings, hand_over_s: float = 1.0) -> None:
        self._routes, self._dispatch, self._settings = routes, dispatch, settings
        self._hand_over_s = hand_over_s
        self._streams: set[Stream] = set()
        dispatch.metrics.live_streams.set_function(lambda: len(self._streams))

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {TRACK: raw(TRACK, self.stream, request_streaming=True, response_streaming=True, live=True)}

    async def stream(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The answer to every step, each once and in order, whichever instances give them.

        Raises:
            TriviumError: `step` in its metadata is the last one that was answered; there is none in that of a stream
                that began with a state and got no answer.
        """
        stream = Stream(self._routes, self._dispatch, self._settings, requests, call)
        self._streams.add(stream)
        try:
            while (answer := await stream.next()) is not None:
                yield answer
        except TriviumError as error:
            if stream.step is not None:
                error.metadata.setdefault("step", str(stream.step))
            raise
        finally:
            self._streams.discard(stream)
            await stream.close()

    def hand_over(self) -> None:
        """This gateway leaves: every stream ends, and its caller can go on through another one."""
        until = asyncio.get_running_loop().time() + self._hand_over_s
        for stream in self._streams:
            stream.leave(until)
