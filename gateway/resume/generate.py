"""Generate: the method of LanguageService whose texts outlive the instance that writes them."""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing

from gateway.attempts import Dispatch
from gateway.forwarder import forwarded
from gateway.resume.continuation import Continuation
from gateway.resume.texts import Texts
from gateway.resume.writing import answers
from gateway.routes import Routes
from gateway.settings import ResumeSettings
from services.kit.call import Call
from services.kit.discovery.client import consul_service
from services.kit.errors import TriviumError
from services.kit.transport.method import Method, raw

GENERATE = "/trivium.language.v1.LanguageService/Generate"
SERVICE = consul_service("trivium.language.v1")


def seed() -> int:
    """64 random bits."""
    return secrets.randbits(64)


class Generate:
    """The method, for a server's table.

    Args:
        draw: gives the seed of a text whose caller brings none. It is drawn here, so that every instance gets the same.
    """

    def __init__(
        self, routes: Routes, dispatch: Dispatch, settings: ResumeSettings, draw: Callable[[], int] = seed
    ) -> None:
        self._routes, self._dispatch, self._settings, self._draw = routes, dispatch, settings, draw

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {GENERATE: raw(GENERATE, self.stream, request_streaming=False, response_streaming=True)}

    async def stream(self, data: bytes, call: Call) -> AsyncIterator[bytes]:
        """Every token of every text, each once and in order, whichever instances make them.

        An answer is taken from the instance when the caller has taken the one before: a slow reader holds back its own
        text alone.

        Raises:
            TriviumError: `token` in its metadata is the number of tokens that were sent.
        """
        texts = Texts(data, self._draw)
        tries = Continuation(
            self._routes,
            self._dispatch,
            self._settings,
            SERVICE,
            lambda: self._routes.typed(SERVICE, texts.model),
            lambda: texts.model,
            call,
            progress=lambda: {"token": texts.sent},
        )
        try:
            async with aclosing(answers(GENERATE, texts, tries, call, forwarded(call.metadata))) as written:
                async for answer in written:
                    yield answer
        except TriviumError as error:
            error.metadata.setdefault("token", str(texts.sent))
            raise
        finally:
            tries.left(None)
