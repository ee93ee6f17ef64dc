"""VisionServicer: messages in, pixels, batcher, answers, messages out."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import status_pb2

from services.kit.call import Call
from services.kit.errors import InvalidField, UnsupportedByModel, outcome
from services.kit.inference.batcher import Output
from services.kit.inference.manifest import Manifest
from services.kit.inference.models import Model, Models
from services.vision.decoder import Decoder
from services.vision.pipeline import Pipeline, RankedClass, classifies, embeds
from services.vision.window import side_by_side
from trivium.common.v1 import classes_pb2
from trivium.vision.v1 import vision_pb2

DEFAULT_TOP_K, MAX_TOP_K = 5, 100
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
        response, output = await self._classify(model, pipeline, request, call)
        call.trailers.extend(model.trailers(output))
        return response

    async def embed(self, request: vision_pb2.EmbedRequest, call: Call) -> vision_pb2.EmbedResponse:
        """The embedding of one image."""
        model, pipeline = self._find(request.model, embeds, "embedding")
        output = await self._infer(model, pipeline, request.image, call)
        with call.timed("encode"):
            response = vision_pb2.EmbedResponse(values=pipeline.embedding(output.arrays))
        call.trailers.extend(model.trailers(output))
        return response

    async def classify_stream(
        self, requests: AsyncIterator[vision_pb2.ClassifyStreamRequest], call: Call
    ) -> AsyncIterator[vision_pb2.ClassifyStreamResponse]:
        """Ranks the classes of many images; each has its own answer or its own error, in any order."""
        first = await anext(requests, None)
        if first is None:
            return
        model, pipeline = self._find(first.model, classifies, "classes")
        call.stage = "stream"
        total = _Total(call)

        async def answer(request: vision_pb2.ClassifyStreamRequest) -> vision_pb2.ClassifyStreamResponse:
            item = Call(call.method, call.deadline, call.metadata)
            result = await outcome(
                self._classify_item(model, pipeline, first.model, request, item),
                lambda: {"stage": item.stage, "instance": self._instance},
            )
            if isinstance(result, status_pb2.Status):
                total.add(item, None)
                return vision_pb2.ClassifyStreamResponse(id=request.id, error=result)
            response, output = result
            total.add(item, output)
            return vision_pb2.ClassifyStreamResponse(id=request.id, result=response)

        images = side_by_side(_with_first(first, requests), answer, self._stream_window)
        async with contextlib.aclosing(images) as answers:
            async for response in answers:
                yield response
        call.trailers.extend(model.trailers(total.output))

    async def _classify_item(
        self,
        model: VisionModel,
        pipeline: Pipeline,
        stream_model: str,
        request: vision_pb2.ClassifyStreamRequest,
        item: Call,
    ) -> tuple[vision_pb2.ClassifyResponse, Output]:
        _check_id(request.id)
        _check_same_model(request.model, stream_model)
        return await self._classify(model, pipeline, request, item)

    async def _classify(
        self, model: VisionModel, pipeline: Pipeline, request: Classifying, call: Call
    ) -> tuple[vision_pb2.ClassifyResponse, Output]:
        top_k = _top_k(request)
        output = await self._infer(model, pipeline, request.image, call)
        with call.timed("encode"):
            return _encoded(pipeline.rank(output.arrays, top_k)), output

    async def _infer(self, model: VisionModel, pipeline: Pipeline, image: bytes, call: Call) -> Output:
        with call.timed("decode"):
            pixels = await self._decoder.decode(image, pipeline.preprocessing, call.deadline)
            inputs = pipeline.prepare(pixels)
        with call.timed("queue"):
            output = await model.batcher.submit(inputs, call.deadline)
        call.stages["queue"] -= output.compute_s  # the wait had both in it
        call.stages["compute"] = output.compute_s
        return output

    def _find(self, name: str, supports: Callable[[Manifest], bool], what: str) -> tuple[VisionModel, Pipeline]:
        """The model that the caller names, and its pipeline; `what` it must have, in words."""
        model = self._models.find(name, supports)
        if model.pipeline is None or not supports(model.manifest):
            raise UnsupportedByModel(
                f"model {model.name!r} has no {what}; its task is {model.manifest.task}",
                model=model.name,
                task=model.manifest.task,
            )
        return model, model.pipeline


class _Total:
    """What became of a stream's images, for its trailers, its stages and its log line."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.output = Output({}, 0.0, 0.0, 0)  # waits and runs added up; the largest batch
        call.fields |= {"items": 0, "failed_items": 0}

    def add(self, item: Call, output: Output | None) -> None:
        """One image more; None: it failed."""
        for stage, seconds in item.stages.items():
            self._call.stages[stage] = self._call.stages.get(stage, 0.0) + seconds
        self._count("items" if output else "failed_items")
        if output is not None:
            sum_ = self.output
            self.output = Output(
                {},
                sum_.queue_s + output.queue_s,
                sum_.compute_s + output.compute_s,
                max(sum_.batch_size, output.batch_size),
            )

    def _count(self, field: str) -> None:
        self._call.fields[field] = int(self._call.fields[field]) + 1


async def _with_first(
    first: vision_pb2.ClassifyStreamRequest, others: AsyncIterator[vision_pb2.ClassifyStreamRequest]
) -> AsyncIterator[vision_pb2.ClassifyStreamRequest]:
    yield first
    async for request in others:
        yield request


def _top_k(request: Classifying) -> int:
    """How many classes the caller wants."""
    if not request.HasField("top_k"):
        return DEFAULT_TOP_K
    if not 1 <= request.top_k <= MAX_TOP_K:
        raise InvalidField(
            f"top_k is {request.top_k} and must lie in [1, {MAX_TOP_K}]",
            field="top_k",
            limit=f"[1, {MAX_TOP_K}]",
            value=str(request.top_k),
        )
    return request.top_k


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


def _encoded(ranked: Iterable[RankedClass]) -> vision_pb2.ClassifyResponse:
    return vision_pb2.ClassifyResponse(
        classes=[
            classes_pb2.RankedClass(label=found.label, index=found.index, probability=found.probability)
            for found in ranked
        ]
    )
