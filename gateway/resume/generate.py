"""Generate: the method of LanguageService whose texts outlive the instance that writes them."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing

from google.rpc import code_pb2

from gateway.attempts import Dispatch
from gateway.endpoint import Endpoint
from gateway.failures import found
from gateway.forwarder import forwarded, single
from gateway.resume.continuation import Continuation
from gateway.resume.texts import Texts
from gateway.routes import Routes
from gateway.settings import ResumeSettings
from services.kit.call import Call
from services.kit.discovery.client import consul_service
from services.kit.errors import TriviumError
from services.kit.transport.method import Method, raw
from services.kit.transport.upstream import CallFailed

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
            async with aclosing(self._answers(texts, tries, call)) as answers:
                async for answer in answers:
                    yield answer
        except TriviumError as error:
            error.metadata.setdefault("token", str(texts.sent))
            raise
        finally:
            tries.left(None)

    async def _answers(self, texts: Texts, tries: Continuation, call: Call) -> AsyncGenerator[bytes, None]:
        """The answers of one instance after the other, until every text has its end."""
        metadata = forwarded(call.metadata)
        while True:
            endpoint = await tries.pick()
            call.stage = "stream"
            trailers: list[tuple[str, str | bytes]] = []
            initial = None if texts.begun else call.initial
            answers = endpoint.upstream.stream(
                GENERATE, single(texts.request()), metadata, call.deadline, trailers, initial
            )
            try:
                async with aclosing(answers):
                    async for data in answers:
                        answer = texts.answered(data, endpoint)
                        if texts.pin is not None:
                            tries.answered(endpoint, texts.pin)
                        if answer is not None:
                            tries.renew()
                            yield answer
                _check_complete(texts, endpoint)
            except CallFailed as failure:
                if texts.complete:
                    tries.enough(endpoint, failure)
                    return
                tries.failed(endpoint, failure)
            except BaseException:
                tries.left(endpoint)
                raise
            else:
                tries.succeeded(endpoint, trailers)
                return


def _check_complete(texts: Texts, endpoint: Endpoint) -> None:
    """Raises CallFailed where an instance has ended the stream well before every text has its end."""
    if not texts.complete:
        raise found(code_pb2.UNAVAILABLE, f"{endpoint.id} ended the stream before its texts")
