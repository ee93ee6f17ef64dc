"""SequenceServer: a gRPC server whose answers about series tests can tell beforehand."""

import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from trivium.client.errors import DETAILS_KEY
from trivium.common.v1 import classes_pb2, model_pb2
from trivium.models.v1 import models_pb2
from trivium.sequence.v1 import sequence_pb2 as pb

SERVICE = "trivium.sequence.v1.SequenceService"
STATE = struct.Struct("<Qd")  # steps so far and their sum
BAD = 13.0  # the number that ends a stream
HORIZON = 3
WINDOW = 4  # steps that are answered together


class SequenceServer:
    """Two models, both with one number a step: "parity" says whether the sum so far is odd or even, "sum" forecasts
    the sum and what follows it. The number BAD ends a stream with FAILED_PRECONDITION."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.left = threading.Event()  # a stream has ended
        self._server = grpc.server(ThreadPoolExecutor(4))
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        handlers: dict[str, Any] = {
            "Classify": unary(self._classify, pb.ClassifyRequest.FromString, _bytes),
            "Forecast": unary(self._forecast, pb.ForecastRequest.FromString, _bytes),
            "Track": stream(self._track, pb.TrackRequest.FromString, _bytes),
        }
        models: dict[str, Any] = {"GetModel": unary(self._model, models_pb2.GetModelRequest.FromString, _bytes)}
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, handlers),
                grpc.method_handlers_generic_handler("trivium.models.v1.ModelService", models),
            )
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        """Ends it and every stream."""
        self._server.stop(0).wait()

    def _classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        self.requests.append(request)
        context.set_trailing_metadata((("trivium-model", "parity"), ("trivium-version", "1")))
        return pb.ClassifyResponse(classes=_parity(sum(request.values), request.top_k or 5))

    def _forecast(self, request: pb.ForecastRequest, context: grpc.ServicerContext) -> pb.ForecastResponse:
        self.requests.append(request)
        context.set_trailing_metadata((("trivium-model", "sum"), ("trivium-version", "1")))
        return pb.ForecastResponse(values=_ahead(sum(request.values))[: request.horizon or HORIZON])

    def _model(self, request: models_pb2.GetModelRequest, context: grpc.ServicerContext) -> models_pb2.GetModelResponse:
        inputs = [model_pb2.TensorInfo(name="x", datatype="FP32", shape=[-1, -1, 1])]
        horizon = HORIZON if request.model.startswith("sum") else 0
        model = model_pb2.ModelInfo(name="sum", version=1, inputs=inputs, max_horizon=horizon, max_steps=4096)
        return models_pb2.GetModelResponse(model=model)

    def _track(self, messages: Iterator[pb.TrackRequest], context: grpc.ServicerContext) -> Iterator[pb.TrackResponse]:
        context.add_callback(self.left.set)
        opening = next(messages)
        self.requests.append(opening)
        model = opening.model or "parity"
        step, total = STATE.unpack(opening.resume_state) if opening.resume_state else (0, 0.0)
        named = f"{model}:1"
        for message in messages:
            self.requests.append(message)
            response = pb.TrackResponse(model=named)
            for place, value in enumerate(message.values, 1):
                if value == BAD:
                    if response.steps:
                        yield response
                    _refuse(context, step)
                step, total = step + 1, total + value
                if model == "sum":
                    response.steps.add(step=step, values=_ahead(total))
                else:
                    response.steps.add(step=step, classes=_parity(total, opening.top_k or 1))
                last = place == len(message.values)
                if last and opening.return_state:
                    response.state = STATE.pack(step, total)
                if last or len(response.steps) == WINDOW:
                    yield response
                    response = pb.TrackResponse()
                    named = ""


def _parity(total: float, top_k: int) -> list[classes_pb2.RankedClass]:
    odd = int(total) % 2
    names = ("even", "odd")
    best = classes_pb2.RankedClass(label=names[odd], index=odd, probability=0.75)
    return [best, classes_pb2.RankedClass(label=names[1 - odd], index=1 - odd, probability=0.25)][:top_k]


def _ahead(total: float) -> list[float]:
    return [total + number for number in range(1, HORIZON + 1)]


def _refuse(context: grpc.ServicerContext, step: int) -> None:
    status = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message="no such number")
    status.details.add().Pack(ErrorInfo(reason="STATE_MISMATCH", domain="trivium", metadata={"step": str(step)}))
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, status.message)


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())
