"""A language service by ModelStreamInfer, without a network; its tokens are those of `writers`."""

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from gateway.addressing import STREAM_INFER
from gateway.endpoint import Endpoint
from gateway.resume.generate import SERVICE
from gateway.resume.oip_text import TextInfer
from gateway.settings import ResumeSettings, StreamSettings
from gateway.stream_infer import StreamInfer
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import InvalidField
from services.kit.open_inference import ENDS_WITH_STATUS
from tests.unit.gateway.fakes import Gateway, endpoint, fake, model, refused
from tests.unit.gateway.resume.fakes import settled
from tests.unit.gateway.resume.writers import LONG, SEED, word, written
from trivium.common.v1 import model_pb2

FINAL = "triton_final_response"


def bundle(version: int = 1, digest: str = "d1", answers: str = "") -> model_pb2.ModelInfo:
    """One version of the bundle "words"."""
    return model("words", version, digest=digest, answers=answers, max_tokens=64)


class Writer:
    """Writes one text for each stream, a token an answer.

    `fails` maps the number of an answer, counted over all streams, to what happens in its place, once.
    """

    def __init__(self, name: str = "one", *models: model_pb2.ModelInfo) -> None:
        self.endpoint = endpoint(name, *(models or (bundle(),)), service=SERVICE)
        fake(self.endpoint).follow = self.follow
        self.fails: dict[int, Exception] = {}
        self.always: Exception | None = None  # what every stream gets in the place of its first answer
        self.claims = ""  # the version that it says it has, if it lies
        self.skips = False  # the second token of each stream
        self.leaves_out_one = False  # the last but one token
        self.odd_token: int | None = None  # what it gives in the place of each token
        self.without_tokens = False
        self.as_message = ""  # what it answers instead, if it does not know ENDS_WITH_STATUS
        self.got: list[oip.ModelInferRequest] = []
        self.answers = self.open = 0
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()  # answers wait for it
        self.gate.set()

    async def follow(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """One stream."""
        assert ENDS_WITH_STATUS in fake(self.endpoint).opened[-1].metadata
        (data,) = [data async for data in requests]
        self.got.append(oip.ModelInferRequest.FromString(data))
        found = oip.ModelInferRequest.FromString(data)  # reading a parameter makes it
        self.reached.set()
        self.open += 1
        try:
            if self.as_message:
                yield oip.ModelStreamInferResponse(error_message=self.as_message).SerializeToString()
                return
            for answer in self._answers(found):
                await self.gate.wait()
                if self.always is not None:
                    raise self.always
                self.answers += 1
                if self.answers in self.fails:
                    raise self.fails.pop(self.answers)
                yield oip.ModelStreamInferResponse(infer_response=answer).SerializeToString()
        finally:
            self.open -= 1

    def _answers(self, found: oip.ModelInferRequest) -> list[oip.ModelInferResponse]:
        given = found.parameters
        if "refuse" in given:
            raise refused(InvalidField("no such parameter", field="parameters"))
        had = [int(part) for part in given["continue_from"].string_param.split(",") if part]
        seed = given["seed"].uint64_param or given["seed"].int64_param
        tokens = written(found.raw_input_contents[0].decode(), seed, 12)
        assert tokens[: len(had)] == had[: len(tokens)], "the text never was like that"
        version = self.claims or found.model_version or str(max(one.version for one in self.endpoint.models or ()))
        answers = []
        for index in range(min(len(had), len(tokens) - 1), len(tokens)):
            answer = oip.ModelInferResponse(model_name="words", model_version=version, id=found.id)
            new = tokens[index : index + 1] if index >= len(had) else []
            outputs = {
                "text_output": "".join(map(word, new)).encode(),
                "token_ids": struct.pack(f"<{len(new)}q", *(self.odd(token) for token in new)),
            }
            wanted = [output.name for output in found.outputs] or list(outputs)
            for name in outputs:
                if name in wanted and not (self.without_tokens and name == "token_ids"):
                    answer.outputs.add(name=name, datatype="BYTES" if name == "text_output" else "INT64")
                    answer.raw_output_contents.append(outputs[name])
            answer.parameters[FINAL].bool_param = index == len(tokens) - 1
            answers.append(answer)
        answers[0].parameters["seed"].string_param = str(seed)
        answers[-1].parameters["generated_tokens"].string_param = str(len(tokens))
        if self.skips and len(answers) > 2:
            del answers[1]
        if self.leaves_out_one:
            del answers[-2]
        return answers

    def odd(self, token: int) -> int:
        """The token, or what is given in its place."""
        return token if self.odd_token is None else self.odd_token


def request(
    text: str = "once", request_id: str = "a", outputs: Sequence[str] = (), seed: int | None = SEED, **given: Any
) -> oip.ModelInferRequest:
    """A request for a text of a dozen tokens at most."""
    made = oip.ModelInferRequest(model_name="words", id=request_id, raw_input_contents=[text.encode()])
    if seed is not None:
        made.parameters["seed"].uint64_param = seed
    for name, value in given.items():
        setattr(made.parameters[name], "string_param" if isinstance(value, str) else "int64_param", value)
    for name in outputs:
        made.outputs.add(name=name)
    return made


class Reader:
    """One call of ModelStreamInfer through a gateway."""

    def __init__(
        self,
        writers: Sequence[Writer],
        *requests: oip.ModelInferRequest,
        others: Sequence[Endpoint] = (),
        settings: ResumeSettings = LONG,
        streams: StreamSettings | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self.writers, self.others = writers, others
        self.gateway = Gateway([*(one.endpoint for one in writers), *others])
        self.gateway.fleet.outliers._probe = self._healthy
        self.drawn = 0  # seeds
        self._in_flight = [min(0, one.endpoint.in_flight) for one in writers]  # below 0: it is picked first
        routes, dispatch = self.gateway.routes, self.gateway.dispatch
        texts = TextInfer(routes, dispatch, settings, self._draw)
        method = StreamInfer(routes, dispatch, self.gateway.infer, texts, streams or StreamSettings())
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        call = Call(STREAM_INFER, deadline or Deadline(), (("who", "me"),))
        self.answers: Any = method.stream(self._requests(), call)
        self.send(*requests)

    async def _healthy(self, endpoint: Endpoint) -> bool:
        return False

    def _draw(self) -> int:
        self.drawn += 1
        return SEED

    async def _requests(self) -> AsyncIterator[bytes]:
        while (data := await self._messages.get()) is not None:
            yield data

    def send(self, *requests: oip.ModelInferRequest) -> None:
        """Some more requests."""
        for one in requests:
            self._messages.put_nowait(one.SerializeToString())

    async def next(self) -> oip.ModelStreamInferResponse:
        """The next answer."""
        async with asyncio.timeout(5):
            return oip.ModelStreamInferResponse.FromString(await anext(self.answers))

    async def rest(self) -> list[oip.ModelStreamInferResponse]:
        """All answers to the end, after the last request."""
        self._messages.put_nowait(None)
        async with asyncio.timeout(10):
            return [oip.ModelStreamInferResponse.FromString(data) async for data in self.answers]

    def publish(self, *writers: Writer) -> None:
        """These are there from now on."""
        self.gateway.routes.publish([*(one.endpoint for one in writers), *self.others], answered=True)

    async def close(self) -> None:
        """The caller leaves; nothing is left behind."""
        await self.answers.aclose()
        await self.gateway.close()
        await settled()
        assert [one.endpoint.in_flight for one in self.writers] == self._in_flight
        assert [one.open for one in self.writers] == [0] * len(self.writers)


async def told(
    writers: Sequence[Writer], *requests: oip.ModelInferRequest, settings: ResumeSettings = LONG
) -> list[oip.ModelStreamInferResponse]:
    """Every answer that a caller gets."""
    reader = Reader(writers, *(requests or [request()]), settings=settings)
    found = await reader.rest()
    await reader.close()
    return found


def tokens(answers: Sequence[oip.ModelStreamInferResponse]) -> list[int]:
    """Those of all answers, which are of one text."""
    found: list[int] = []
    for answer in answers:
        response = answer.infer_response
        raw = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))
        found += struct.unpack(f"<{len(raw['token_ids']) // 8}q", raw["token_ids"])
    return found
