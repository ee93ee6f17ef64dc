"""A sequence service by the Open Inference Protocol, without a network: an output is the sum so far."""

import asyncio
import struct
from collections.abc import AsyncIterator

from gateway.addressing import STREAM_INFER
from gateway.endpoint import Endpoint
from gateway.methods import MODEL_INFER
from gateway.settings import ResumeSettings, StreamSettings
from gateway.stream_infer import StreamInfer
from inference import grpc_service_pb2 as oip
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import StateMismatch
from services.kit.sequences import STATE
from tests.unit.gateway.fakes import Gateway, endpoint, refused
from tests.unit.gateway.resume.fakes import SEQUENCE, bundle

Id = int | str


def request(
    value: float = 1.0,
    sequence: Id = 7,
    *,
    start: bool = False,
    end: bool = False,
    name: str = "sums",
    version: str = "",
) -> oip.ModelInferRequest:
    """One step, whose id names its sequence and its value."""
    made = oip.ModelInferRequest(model_name=name, model_version=version, id=f"{sequence} {value:g}")
    made.raw_input_contents.append(struct.pack("<f", value))
    if isinstance(sequence, int):
        made.parameters["sequence_id"].int64_param = sequence
    else:
        made.parameters["sequence_id"].string_param = sequence
    made.parameters["sequence_start"].bool_param = start
    made.parameters["sequence_end"].bool_param = end
    return made


class Instance:
    """Answers each step with the sum so far, which is its state too."""

    def __init__(self, name: str = "one", version: int = 1, digest: str = "d1") -> None:
        self.endpoint = endpoint(name, bundle(version, digest), service=SEQUENCE, answer=self.answer)
        self.version, self.digest = version, digest
        self.fails: list[Exception | None] = []  # what the next requests get
        self.got: list[oip.ModelInferRequest] = []
        self.with_state = True

    def answer(self, path: str, data: bytes) -> bytes:
        """One step."""
        found = oip.ModelInferRequest.FromString(data)
        self.got.append(found)
        error = self.fails.pop(0) if self.fails else None
        if error is not None:
            raise error
        state = found.parameters[STATE].string_param if STATE in found.parameters else ""
        digest, _, total = state.partition(" ")
        if digest not in ("", self.digest):
            raise refused(StateMismatch("the state is of another bundle"))
        (value,) = struct.unpack("<f", found.raw_input_contents[0])
        answer = oip.ModelInferResponse(model_name="sums", model_version=str(self.version), id=found.id)
        answer.raw_output_contents.append(struct.pack("<f", float(total or 0) * 0.5 + value))
        if self.with_state and STATE in found.parameters:
            answer.parameters[STATE].string_param = f"{self.digest} {float(total or 0) * 0.5 + value!r}"
        return answer.SerializeToString()


class Caller:
    """One caller of the gateway."""

    def __init__(self, *instances: Instance, resume: ResumeSettings | None = None, window: int = 64) -> None:
        self.gateway = Gateway([one.endpoint for one in instances], resume=resume or ResumeSettings())
        self.gateway.fleet.outliers._probe = self._unhealthy
        self.instances = instances
        self.calls: list[Call] = []
        self.streams = StreamInfer(
            self.gateway.routes,
            self.gateway.dispatch,
            self.gateway.infer,
            self.gateway.texts,
            StreamSettings(window=window),
        )

    async def _unhealthy(self, endpoint: Endpoint) -> bool:
        return False

    async def infer(self, data: oip.ModelInferRequest) -> float:
        """The answer to one request."""
        self.calls.append(Call(MODEL_INFER, Deadline.after(5)))
        handler = self.gateway.infer.methods()[MODEL_INFER].handler
        answer = oip.ModelInferResponse.FromString(await handler(data.SerializeToString(), self.calls[-1]))
        assert answer.id == data.id
        assert STATE not in answer.parameters
        return number(answer)

    async def stream(self, *requests: oip.ModelInferRequest) -> list[tuple[str, float | str]]:
        """Id, and number or error, of every answer to the requests."""

        async def messages() -> AsyncIterator[bytes]:
            for data in requests:
                yield data.SerializeToString()

        found: list[tuple[str, float | str]] = []
        async with asyncio.timeout(10):
            async for data in self.streams.stream(messages(), Call(STREAM_INFER, Deadline())):
                answer = oip.ModelStreamInferResponse.FromString(data)
                response = answer.infer_response
                assert answer.error_message or response.parameters["triton_final_response"].bool_param
                found.append((response.id, answer.error_message or number(response)))
        return found

    async def close(self) -> None:
        """Nothing is left in flight."""
        await self.gateway.close()
        assert all(one.endpoint.in_flight == 0 for one in self.instances)


def number(answer: oip.ModelInferResponse) -> float:
    """The instance's output."""
    found: float = struct.unpack("<f", answer.raw_output_contents[0])[0]
    return found
