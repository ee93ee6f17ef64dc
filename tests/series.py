"""Callers of the sequence service, and what the graph of a bundle says without it."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

from inference import grpc_service_pb2 as oip
from services.kit.inference.bundle import Array, Bundle
from tests.tracked import Answered, by_step
from trivium.sequence.v1 import sequence_pb2 as pb

SERVICE = "/trivium.sequence.v1.SequenceService"
CLASSIFY, FORECAST, TRACK = f"{SERVICE}/Classify", f"{SERVICE}/Forecast", f"{SERVICE}/Track"
INFER, STREAM_INFER = "/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer"
TIMEOUT_S = 30  # of a call: longer ones hang


def graph_says(bundle: Bundle, x: Array) -> Array:
    """The public output of the bundle's graph after each step, float32 [steps, numbers], by ONNX Runtime alone.

    The series stands beside itself, as the RNN operator takes another way for a lone row.

    Args:
        x: float32 [steps, width].
    """
    recurrence = bundle.manifest.recurrence
    assert recurrence is not None
    session = ort.InferenceSession(bundle.path / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = {recurrence.input: np.stack((x, x)), recurrence.lengths: np.full(2, len(x), np.int32)}
    if not recurrence.bidirectional:
        inputs[recurrence.state] = np.zeros((2, recurrence.state_width), np.float32)
    said: Array = session.run([recurrence.output], inputs)[0][0]
    return said.reshape(len(x), -1)


def messages(x: Array, sizes: Iterable[int]) -> list[Array]:
    """The series cut into messages of these sizes, again and again."""
    parts, start = [], 0
    while start < len(x):
        for size in sizes:
            if start < len(x):
                parts.append(x[start : start + size])
                start += size
    return parts


def said(answers: Sequence[Answered]) -> bytes:
    """What a forecaster has answered to the steps of a stream, to the bit."""
    return np.array([list(answer.values) for answer in answers], np.float32).tobytes()


def infer_request(model: str, x: Array, **parameters: Any) -> oip.ModelInferRequest:
    """A request of the Open Inference Protocol with the series as input x; a tuple is a field and its value."""
    request = oip.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=(1, *x.shape))
    request.raw_input_contents.append(x.astype(np.float32).tobytes())
    fields = {bool: "bool_param", int: "int64_param", str: "string_param"}
    for name, value in parameters.items():
        field, value = value if isinstance(value, tuple) else (fields[type(value)], value)
        setattr(request.parameters[name], field, value)
    return request


def whole_stream(
    channel: grpc.Channel, sent: Iterable[bytes], path: str = TRACK
) -> tuple[list[Answered], grpc.RpcError | None]:
    """The answers to a stream of these messages, and its error if it has one; blocks until it has ended.

    For streams that end while they are sent on: there, grpc.aio may tell of an INTERNAL error of its own.
    """
    method: Any = channel.stream_stream(path)
    call = method(iter(sent), timeout=TIMEOUT_S)
    answers: list[Answered] = []
    try:
        for data in call:
            answers += by_step([data])
    except grpc.RpcError as error:
        return answers, error
    return answers, None


class Track:
    """One live stream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._next: deque[Answered] = deque()  # of the last response

    async def send(self, values: Array | Sequence[float] = (), **fields: Any) -> None:
        """One message."""
        flat = np.asarray(values, np.float32).reshape(-1)
        await self.call.write(pb.TrackRequest(values=flat, **fields).SerializeToString())

    async def answers(self, count: int) -> list[Answered]:
        """The answers to the next steps."""
        return [await self.answer() for _ in range(count)]

    async def answer(self) -> Answered:
        """The answer to the next step. Raises AioRpcError where the stream has failed."""
        if not self._next:
            data = await self.call.read()
            if data is grpc.aio.EOF:
                raise AssertionError(f"the stream has ended: {await self.call.code()}")
            self._next.extend(by_step([data]))
        return self._next.popleft()

    async def rest(self) -> list[Answered]:
        """All answers up to the end of the stream, which nothing more is sent on."""
        await self.call.done_writing()
        answers, self._next = list(self._next), deque()
        async for data in self.call:
            answers += by_step([data])
        return answers

    async def failure(self) -> tuple[list[Answered], grpc.aio.AioRpcError]:
        """The answers that still come, and the error that the stream ends with."""
        answers: list[Answered] = []
        try:
            while True:
                answers.append(await self.answer())
        except grpc.aio.AioRpcError as error:
            return answers, error


class Caller:
    """Asks an instance or a gateway about series, with one connection."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def unary(self, path: str, data: bytes) -> bytes:
        """The answer's bytes."""
        method: Any = self._channel.unary_unary(path)
        answer: bytes = await method(data, timeout=TIMEOUT_S)
        return answer

    def stream(self, path: str = TRACK, timeout_s: float = TIMEOUT_S) -> Track:
        """A stream that has just been opened."""
        method: Any = self._channel.stream_stream(path)
        return Track(method(timeout=timeout_s))

    async def classify(self, model: str, x: Array | Sequence[float], **fields: Any) -> bytes:
        """The classes after the last step, as bytes."""
        request = pb.ClassifyRequest(model=model, values=np.asarray(x, np.float32).reshape(-1), **fields)
        return await self.unary(CLASSIFY, request.SerializeToString())

    async def forecast(self, model: str, x: Array | Sequence[float], **fields: Any) -> bytes:
        """The forecast after the last step, to the bit."""
        request = pb.ForecastRequest(model=model, values=np.asarray(x, np.float32).reshape(-1), **fields)
        answer = pb.ForecastResponse.FromString(await self.unary(FORECAST, request.SerializeToString()))
        return np.array(answer.values, np.float32).tobytes()

    async def track(self, model: str, parts: Iterable[Array], **fields: Any) -> list[Answered]:
        """The answers to a whole stream, which the parts are sent on as it takes them."""
        stream = self.stream()

        async def send() -> None:
            await stream.send(model=model, **fields)
            for part in parts:
                await stream.send(part)
            await stream.call.done_writing()

        sending = asyncio.create_task(send())
        try:
            return by_step([data async for data in stream.call])
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def infer(self, model: str, x: Array, **parameters: Any) -> tuple[bytes, str]:
        """What the model says after each step, to the bit, and the state that the answer brings."""
        data = await self.unary(INFER, infer_request(model, x, **parameters).SerializeToString())
        answer = oip.ModelInferResponse.FromString(data)
        return answer.raw_output_contents[0], answer.parameters["trivium_state"].string_param
