"""TextInfer: texts by ModelStreamInfer, each of which outlives the instance that writes it.

Every text is a call of its own to an instance, whatever it shares the caller's stream with: so answers are of one text,
also where callers give many the same id, and a failure is a status that says what it means.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing

from gateway.addressing import STREAM_INFER
from gateway.attempts import Dispatch
from gateway.forwarder import forwarded
from gateway.methods import ANY
from gateway.resume.continuation import Continuation
from gateway.resume.generate import seed
from gateway.resume.infer_text import InferText
from gateway.resume.writing import answers
from gateway.routes import Routes
from gateway.settings import ResumeSettings
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import DeadlineExpired, NoInstance, NotReady
from services.kit.open_inference import ENDS_WITH_STATUS


class TextInfer:
    """The texts among the requests of ModelStreamInfer.

    Args:
        draw: gives the seed of a text whose caller brings none.
    """

    def __init__(
        self, routes: Routes, dispatch: Dispatch, settings: ResumeSettings, draw: Callable[[], int] = seed
    ) -> None:
        self._routes, self._dispatch, self._settings, self._draw = routes, dispatch, settings, draw

    def writes(self, request: oip.ModelInferRequest) -> bool:
        """Whether the request asks for a text.

        Raises:
            TriviumError: there is no such model or version.
        """
        if request.model_name not in self._routes.writing:
            return False
        try:
            return self._routes.named(request.model_name, request.model_version).writes
        except (NoInstance, NotReady):
            return True  # it waits for an instance

    async def answers(
        self, request: oip.ModelInferRequest, call: Call, place: AbstractAsyncContextManager[object]
    ) -> AsyncGenerator[bytes, None]:
        """Every answer to the request, whichever instances give them.

        Args:
            place: taken until the last one.

        Raises:
            Exception: what stands in the way of its end.
        """
        text = InferText(request, self._draw)
        call.deadline = min(call.deadline, text.expires, key=lambda one: one.at)
        tries = Continuation(
            self._routes,
            self._dispatch,
            self._settings,
            ANY,
            lambda: self._routes.named(text.model, text.version),
            lambda: text.model,
            call,
            progress=lambda: {"token": text.sent},
        )
        metadata = (*forwarded(call.metadata), ENDS_WITH_STATUS)
        try:
            async with AsyncExitStack() as held:
                await _take(place, held, call.deadline)
                written = await held.enter_async_context(aclosing(answers(STREAM_INFER, text, tries, call, metadata)))
                async for answer in written:
                    yield answer
        finally:
            tries.left(None)


async def _take(place: AbstractAsyncContextManager[object], held: AsyncExitStack, deadline: Deadline) -> None:
    """Takes the place as long as it is `held`.

    Raises:
        DeadlineExpired: there was none in time.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(deadline.timeout_s()):
            await held.enter_async_context(place)
        if not deadline.expired():
            return
    raise DeadlineExpired("the time was over before the text had its turn on this stream")
