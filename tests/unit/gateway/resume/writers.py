"""A language service without a network: a token is a function of seed, position and all tokens before it."""

import asyncio
import itertools
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.endpoint import Endpoint
from gateway.resume.generate import GENERATE, SERVICE, Generate
from gateway.settings import ResumeSettings
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import InvalidField
from tests.unit.gateway.fakes import Gateway, broken, endpoint, fake, model, refused
from tests.unit.gateway.resume.fakes import settled
from trivium.common.v1 import model_pb2
from trivium.language.v1 import language_pb2 as pb

LONG = ResumeSettings(timeout_s=20)
SEED = 1234567


def bundle(version: int = 1, digest: str = "d1", answers: str = "") -> model_pb2.ModelInfo:
    """One version of the bundle "words"."""
    return model("words", version, digest=digest, answers=answers)


class Writer:
    """Writes texts as LanguageService does, a token a message; a word is held back until the token after it is there.

    `fails` maps the number of an answer, counted over all calls, to what happens in its place, once. A text ends with a
    token that 11 divides, or after `max_new_tokens`.
    """

    def __init__(self, name: str = "one", *models: model_pb2.ModelInfo) -> None:
        self.endpoint = endpoint(name, *(models or (bundle(),)), service=SERVICE)
        fake(self.endpoint).follow = self.follow
        self.fails: dict[int, Exception] = {}
        self.always: Exception | None = None  # what every call gets in the place of its first answer
        self.breaks_at_end: Exception | None = None  # in the place of the good end
        self.down = False  # nothing gets through
        self.ends_early = 0  # calls that it ends well before their texts
        self.end_alone = False  # the finish reason comes in a message of its own
        self.echo_alone = False  # the echoed prompt comes in a message of its own
        self.claims = ""  # the bundle that it says it has, if it lies
        self.skips = self.repeats = -1  # a token that it leaves out; that it tells again after the next one
        self.got: list[pb.GenerateRequest] = []
        self.answers = self.taken = self.open = 0
        self.reached = asyncio.Event()  # somebody has called
        self.gate = asyncio.Event()  # answers wait for it
        self.gate.set()

    async def follow(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """One call."""
        if self.down:
            raise broken(sent=False)
        (data,) = [data async for data in requests]
        request = pb.GenerateRequest.FromString(data)
        self.got.append(request)
        self.reached.set()
        self.open += 1
        try:
            for answer in self._answers(request):
                await self.gate.wait()
                if self.always is not None:
                    raise self.always
                self.answers += 1
                if self.answers in self.fails:
                    raise self.fails.pop(self.answers)
                yield answer.SerializeToString()
                self.taken += 1
            if self.breaks_at_end is not None:
                raise self.breaks_at_end
        finally:
            self.open -= 1

    def _answers(self, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
        """All answers to a call, those of its texts by turns."""
        if not request.HasField("seed"):
            raise refused(InvalidField("no seed", field="seed"))
        given = [request.continue_from.generated_token_ids, *(more.ids for more in request.continue_from.further)]
        texts = [
            self._text(request, choice, list(given[choice]) if choice < len(given) else [])
            for choice in range(max(1, request.n))
        ]
        found = [answer for turn in itertools.zip_longest(*texts) for answer in turn if answer is not None]
        found[0].model = self.claims or self._named(request.model)
        if self.ends_early:
            self.ends_early -= 1
            return found[:-1]
        return found

    def _named(self, wanted: str) -> str:
        return f"words:{wanted.partition(':')[2] or max(found.version for found in self.endpoint.models or ())}"

    def _text(self, request: pb.GenerateRequest, choice: int, given: list[int]) -> list[pb.GenerateResponse]:
        """What comes of one text after the tokens given."""
        tokens = written(request.prompt, request.seed + choice, request.max_new_tokens)
        if tokens[: len(given)] != given[: len(tokens)]:
            raise refused(InvalidField("the text never was like that", field="continue_from"))
        answers = [
            pb.GenerateResponse(
                choice=choice,
                index=index,
                token_ids=[token],
                text=word(tokens[index - 1]) if index else "",
                logprobs=[pb.TokenLogprob(token_id=token, logprob=-token / 7)] if request.HasField("logprobs") else [],
            )
            for index, token in enumerate(tokens)
        ][len(given) :]
        end = answers[-1] if answers and not self.end_alone else pb.GenerateResponse(choice=choice, index=len(tokens))
        if not answers or self.end_alone:
            answers.append(end)
        end.text += word(tokens[-1]) if tokens else ""
        stopped = bool(tokens) and tokens[-1] % 11 == 0
        end.finish_reason = pb.FINISH_REASON_STOP if stopped else pb.FINISH_REASON_LENGTH
        end.usage.prompt_tokens, end.usage.generated_tokens = len(request.prompt), len(tokens)
        if request.echo and not given:
            self._echo(answers, choice, request.prompt)
        answers[0].seed = request.seed + choice
        return self._faulty(answers, len(given))

    def _echo(self, answers: list[pb.GenerateResponse], choice: int, prompt: str) -> None:
        if self.echo_alone:
            answers.insert(0, pb.GenerateResponse(choice=choice))
        first = answers[0]
        first.echoed, first.text = len(prompt), prompt + first.text
        first.token_ids[:] = [*map(ord, prompt), *first.token_ids]

    def _faulty(self, answers: list[pb.GenerateResponse], begins: int) -> list[pb.GenerateResponse]:
        if begins <= self.skips < begins + len(answers) - 1:
            del answers[self.skips - begins]
        if begins <= self.repeats < begins + len(answers) - 2:
            answers.insert(self.repeats - begins + 2, answers[self.repeats - begins])
        return answers


def written(prompt: str, seed: int, most: int) -> list[int]:
    """The tokens of a text."""
    tokens: list[int] = []
    while len(tokens) < most and not (tokens and tokens[-1] % 11 == 0):
        tokens.append(1 + zlib.crc32(f"{prompt} {seed} {tokens}".encode()) % 1000)
    return tokens


def word(token: int) -> str:
    """What a token adds to the text."""
    return f"{token:x} "


def request(prompt: str = "once", **fields: Any) -> pb.GenerateRequest:
    """A request for a text of a dozen tokens at most."""
    wanted: dict[str, Any] = {"model": "words", "max_new_tokens": 12, "seed": SEED, "temperature": 1.0}
    return pb.GenerateRequest(prompt=prompt, **(wanted | fields))


@dataclass
class Reader:
    """One call of Generate through a gateway."""

    writers: Sequence[Writer]
    asks: pb.GenerateRequest | bytes = field(default_factory=request)
    settings: ResumeSettings = LONG
    deadline: Deadline = field(default_factory=Deadline)

    def __post_init__(self) -> None:
        self.gateway = Gateway([one.endpoint for one in self.writers])
        self.gateway.fleet.outliers._probe = self._healthy
        self.drawn = 0  # seeds
        self._in_flight = [min(0, one.endpoint.in_flight) for one in self.writers]  # below 0: it is picked first
        generate = Generate(self.gateway.routes, self.gateway.dispatch, self.settings, self._draw)
        self.call = Call(GENERATE, self.deadline, (("who", "me"), ("user-agent", "x")))
        data = self.asks if isinstance(self.asks, bytes) else self.asks.SerializeToString()
        self.answers = generate.methods()[GENERATE].handler(data, self.call)

    async def _healthy(self, endpoint: Endpoint) -> bool:
        return False

    def _draw(self) -> int:
        self.drawn += 1
        return SEED

    async def next(self) -> pb.GenerateResponse:
        """The next answer."""
        return pb.GenerateResponse.FromString(await anext(self.answers))

    async def rest(self) -> list[pb.GenerateResponse]:
        """All answers to the end."""
        async with asyncio.timeout(10):
            return [pb.GenerateResponse.FromString(data) async for data in self.answers]

    def publish(self, *writers: Writer) -> None:
        """These are there from now on."""
        self.gateway.routes.publish([one.endpoint for one in writers], answered=True)

    def counted(self, name: str) -> float:
        """A counter of the gateway for this method."""
        return self.gateway.registry.get_sample_value(f"trivium_gateway_{name}_total", {"method": GENERATE}) or 0

    async def close(self) -> None:
        """The caller leaves; nothing is left behind."""
        await self.answers.aclose()
        await self.gateway.close()
        await settled()
        assert [one.endpoint.in_flight for one in self.writers] == self._in_flight
        assert [one.open for one in self.writers] == [0] * len(self.writers)


async def told(
    writers: Sequence[Writer], asks: pb.GenerateRequest | None = None, settings: ResumeSettings = LONG
) -> list[pb.GenerateResponse]:
    """Every answer that a caller gets."""
    reader = Reader(writers, asks or request(), settings)
    found = await reader.rest()
    await reader.close()
    return found


def by_text(answers: Sequence[pb.GenerateResponse]) -> dict[int, list[pb.GenerateResponse]]:
    """The answers of each text in order; the texts of a call go on by turns, and after a break by other turns."""
    found: dict[int, list[pb.GenerateResponse]] = {}
    for answer in answers:
        copy = pb.GenerateResponse()
        copy.CopyFrom(answer)
        copy.ClearField("model")  # told once for all of them
        found.setdefault(answer.choice, []).append(copy)
    return found
