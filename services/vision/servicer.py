"""VisionServicer: messages in, pixels, batcher, answers, messages out."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import status_pb2

from services.kit.call import Call
from services.kit.errors import InvalidField, outcome
from services.kit.inference import ranking
from services.kit.inference.batcher import Output
from services.kit.inference.manifest import Manifest
from services.kit.inference.models import Model, Models
from services.vision.decoder import Decoder
from services.vision.pipeline import Pipeline, classifies, embeds
from services.vision.window import side_by_side
from trivium.vision.v1 import vision_pb2

DEFAULT_TOP_K = 5
MAX_ID_BYTES = 256

VisionModels = Models[Pipeline | None]
VisionModel = Model[Pipeline | None]
Classifying = vision_pb2.ClassifyRequest | vision_pb2.ClassifyStreamRequest


class VisionServicer:
    """Answers VisionService.

    Args:
        models: what can be asked.
        decoder: image files to pixels.
        instance: name of this process, which the errors of a stream's items carry.
        stream_window: images of one stream that are worked on at a time.
    """

    service: ClassVar[ServiceDescriptor] = vision_pb2.DESCRIPTOR.services_by_name["VisionService"]

    def __init__(self, models: VisionModels, decoder: Decoder, *, instance: str, stream_window: int) -> None:
        self._models, self._decoder = models, decoder
        self._instance, self._stream_window = instance, stream_window

    async def classify(self, request: vision_pb2.ClassifyRequest, call: Call) -> vision_pb2.ClassifyResponse:
        """Ranks the classes of one image."""
        model, pipeline = self._find(request.model, classifies, "classes")
        return await self._classify(model, pipeline, request, call)

    async def embed(self, request: vision_pb2.EmbedRequest, call: Call) -> vision_pb2.EmbedResponse:
        """The embedding of one image."""
        model, pipeline = self._find(request.model, embeds, "embedding")
        output = await self._infer(model, pipeline, request.image, call)
        with call.timed("encode"):
            return vision_pb2.EmbedResponse(values=pipeline.embedding(output.arrays))

    async def classify_stream(
        self, requests: AsyncIterator[vision_pb2.ClassifyStreamRequest], call: Call
    ) -> AsyncIterator[vision_pb2.ClassifyStreamResponse]:
        """Ranks the classes of many images; each has its own answer or its own error, in any order."""
        first = await anext(requests, None)
        if first is None:
            return
        model, pipeline = self._find(first.model, classifies, "classes")
        call.stage = "stream"
        call.fields["model"] = f"{model.name}:{model.version}"
        total = _Total(call)

        async def answer(request: vision_pb2.ClassifyStreamRequest) -> vision_pb2.ClassifyStreamResponse:
            item = Call(call.method, call.deadline, call.metadata)
            result = await outcome(
                self._classify_item(model, pipeline, first.model, request, item),
                lambda: {"stage": item.stage, "instance": self._instance},
            )
            failed = isinstance(result, status_pb2.Status)
            total.add(item, failed=failed)
            return vision_pb2.ClassifyStreamResponse(id=request.id, **{"error" if failed else "result": result})

        images = side_by_side(_with_first(first, requests), answer, self._stream_window)
        async with contextlib.aclosing(images) as answers:
            async for response in answers:
                yield response
        call.trailers.extend(model.trailers(total.output()))

    async def _classify_item(
        self,
        model: VisionModel,
        pipeline: Pipeline,
        stream_model: str,
        request: vision_pb2.ClassifyStreamRequest,
        item: Call,
    ) -> vision_pb2.ClassifyResponse:
        _check_id(request.id)
        _check_same_model(request.model, stream_model)
        return await self._classify(model, pipeline, request, item)

    async def _classify(
        self, model: VisionModel, pipeline: Pipeline, request: Classifying, call: Call
    ) -> vision_pb2.ClassifyResponse:
        top_k = ranking.top_k(request, DEFAULT_TOP_K)
        output = await self._infer(model, pipeline, request.image, call)
        with call.timed("encode"):
            return vision_pb2.ClassifyResponse(classes=ranking.encoded(pipeline.rank(output.arrays, top_k)))

    async def _infer(self, model: VisionModel, pipeline: Pipeline, image: bytes, call: Call) -> Output:
        with call.timed("decode"):
            pixels = await self._decoder.decode(image, pipeline.preprocessing, call.deadline)
            inputs = pipeline.prepare(pixels)
        call.stage = "queue"
        output = await model.batcher.submit(inputs, call.deadline)
        model.report(output, call)
        return output

    def _find(self, name: str, supports: Callable[[Manifest], bool], what: str) -> tuple[VisionModel, Pipeline]:
        """The model that the caller names, and its pipeline; `what` it must have, in words."""
        model = self._models.find(name, supports)
        model.must_support(supports, what)
        assert model.pipeline is not None  # as it supports what takes images
        return model, model.pipeline


class _Total:
    """What a stream's images cost altogether, for its trailers, its stages and its log line."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._largest_batch = 0
        call.fields |= {"items": 0, "failed_items": 0}

    def add(self, item: Call, *, failed: bool) -> None:
        """One image more."""
        fields, stages = self._call.fields, self._call.stages
        fields["items"] = int(fields["items"]) + 1
        fields["failed_items"] = int(fields["failed_items"]) + failed
        self._largest_batch = max(self._largest_batch, int(item.fields.get("batch", 0)))
        for stage, seconds in item.stages.items():
            stages[stage] = stages.get(stage, 0.0) + seconds

    def output(self) -> Output:
        """Waits and runs added up, and the largest batch."""
        stages = self._call.stages
        return Output({}, stages.get("queue", 0.0), stages.get("compute", 0.0), self._largest_batch)


async def _with_first(
    first: vision_pb2.ClassifyStreamRequest, others: AsyncIterator[vision_pb2.ClassifyStreamRequest]
) -> AsyncIterator[vision_pb2.ClassifyStreamRequest]:
    yield first
    async for request in others:
        yield request


def _check_id(text: str) -> None:
    size = len(text.encode())
    if size > MAX_ID_BYTES:
        raise InvalidField(
            f"id has {size} bytes and the limit is {MAX_ID_BYTES}", field="id", limit=str(MAX_ID_BYTES), value=str(size)
        )


def _check_same_model(named: str, of_stream: str) -> None:
    if named and named != of_stream:
        raise InvalidField(
            f"model is {named!r}, and the first message of the stream asked for {of_stream!r}",
            field="model",
            limit=of_stream,
            value=named,
        )
