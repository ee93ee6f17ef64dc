"""A caller of the gateway, and what it asks for."""

from typing import Any

import grpc
import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from tests.harness import Replica, Suite, error_info
from tests.images import png
from trivium.models.v1 import models_pb2
from trivium.vision.v1 import vision_pb2

VISION, MODELS, INFERENCE = (
    "trivium.vision.v1.VisionService",
    "trivium.models.v1.ModelService",
    "inference.GRPCInferenceService",
)
RED = png((220, 30, 30))
VALUES: dict[str, list[Any]] = {  # three of each datatype
    "FP16": [1.5, -2.0, 65504.0],
    "FP32": [1.5, -3e38, 0.0],
    "INT8": [-128, 0, 127],
    "UINT8": [0, 128, 255],
    "INT32": [-(2**31), 0, 2**31 - 1],
    "INT64": [-(2**63), 0, 2**63 - 1],
    "BOOL": [True, False, True],
    "BYTES": [b"", "日本".encode(), b"a\0b"],
}


class Gateway:
    """A caller of the gateway, and the suite behind it."""

    def __init__(self, suite: Suite, replica: Replica, channel: Any) -> None:
        self.suite, self.replica, self.channel = suite, replica, channel

    def start(self, service: str, method: str, request: Any, **options: Any) -> Any:
        """The call, under way."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return self.channel.unary_unary(f"/{service}/{method}")(data, **{"timeout": 10, **options})

    async def classify(self, image: bytes = RED, model: str = "colours", **options: Any) -> Any:
        """The answer of Classify."""
        call = self.start(VISION, "Classify", vision_pb2.ClassifyRequest(model=model, image=image), **options)
        return vision_pb2.ClassifyResponse.FromString(await call)

    async def trailers(self, model: str = "colours") -> dict[str, str]:
        """Trailing metadata of one Classify."""
        call = self.start(VISION, "Classify", vision_pb2.ClassifyRequest(model=model, image=RED))
        await call
        return dict(tuple(await call.trailing_metadata()))

    async def inference(self, method: str, request: Any) -> Any:
        """The answer of a method of the Open Inference Protocol."""
        return getattr(oip, f"{method}Response").FromString(await self.start(INFERENCE, method, request))

    async def models(self, name: str = "") -> list[Any]:
        """What ListModels says."""
        answer = await self.start(MODELS, "ListModels", models_pb2.ListModelsRequest(model=name))
        return list(models_pb2.ListModelsResponse.FromString(answer).models)


def infer(model: str, version: str = "", values: tuple[float, ...] = (1, 2, 3, 4), **fields: Any) -> Any:
    """A request to an identity bundle."""
    data = np.array(values, np.float32)
    request = oip.ModelInferRequest(model_name=model, model_version=version, **fields)
    request.inputs.add(name="x", datatype="FP32", shape=[1, len(values)])
    request.raw_input_contents.append(data.tobytes())
    return request


async def fails(awaitable: Any) -> tuple[str, str]:
    """Code and reason of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value.code().name, error_info(caught.value).reason
