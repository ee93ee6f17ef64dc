"""Requests to a model that adds and subtracts, and what comes back."""

import struct
from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np

from inference import grpc_service_pb2 as pb
from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.inference.oip import OipServicer


def call() -> Call:
    return Call("/inference.GRPCInferenceService/ModelInfer", Deadline.after(30))


def infer(model: str = "add", *, id: str = "", version: str = "", outputs: Iterable[str] = ()) -> Any:
    """a = [1, 2], b = [3, 4]."""
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    for name, values in (("a", (1, 2)), ("b", (3, 4))):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 2])
        request.raw_input_contents.append(struct.pack("<2f", *values))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def floats(response: pb.ModelInferResponse) -> dict[str, list[float]]:
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {output.name: np.frombuffer(raw, np.float32).tolist() for output, raw in pairs}


async def stream(servicer: OipServicer, *requests: Any) -> list[Any]:
    async def sent() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    return [response async for response in servicer.model_stream_infer(sent(), call())]
