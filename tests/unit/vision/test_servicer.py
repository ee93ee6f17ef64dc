"""VisionService's promises, with models and a decoder that do as the test says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, cast

import numpy as np
import pytest
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import BadRequest

from services.kit.call import Call
from services.kit.deadline import Deadline
from services.kit.errors import ImageUnreadable, InvalidField, ModelNotFound, Overloaded, UnsupportedByModel, error_info
from services.kit.inference.batcher import Output
from services.kit.inference.manifest import ImagePreprocessing, Manifest, Postprocessing, TensorSpec
from services.kit.inference.model import Model
from services.kit.transport.method import methods_of
from services.vision.pipeline import Pipeline
from services.vision.servicer import VisionServicer
from trivium.vision.v1 import vision_pb2
from trivium.vision.v1.vision_pb2 import ClassifyRequest, ClassifyStreamRequest

IMAGE, LOGITS = TensorSpec("image", "UINT8", (-1, 1, 1, 3)), TensorSpec("logits", "FP32", (-1, 3))
STEPS = ImagePreprocessing("image", width=1, height=1, channels="rgb", layout="NHWC", datatype="UINT8")
LABELS = ("red", "green", "blue")
WINDOW = 4


def manifest(*, images: bool = True, embedding: str | None = "logits") -> Manifest:
    if not images:
        return Manifest(1, "vision", "tensors", "", (IMAGE,), (LOGITS,), 4, 21, {})
    post = Postprocessing("logits", softmax=True, embedding=embedding)
    return Manifest(
        1, "vision", "image-classification", "", (IMAGE,), (LOGITS,), 4, 21, {}, LABELS, STEPS, post
    )  # fmt: skip


class FakeBatcher:
    """Answers with the pixel as logits, when the test lets it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.running = self.most = 0
        self.cancelled = 0
        self.error: Exception | None = None

    async def submit(self, inputs: Mapping[str, Any], deadline: Deadline) -> Output:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if self.error:
            raise self.error
        return Output({"logits": inputs["image"][:, 0, 0].astype(np.float32)}, 0.25, 0.5, 3)


class FakeModel:
    report, must_support = Model.report, Model.must_support

    def __init__(self, name: str, manifest_: Manifest) -> None:
        self.name, self.version, self.manifest = name, 1, manifest_
        self.pipeline = Pipeline.of(manifest_)
        self.batcher = FakeBatcher()

    def trailers(self, output: Output) -> list[tuple[str, str | bytes]]:
        return [("trivium-model", self.name), ("queue", f"{output.queue_s}"), ("batch", f"{output.batch_size}")]


class FakeModels:
    """find() as Models has it: an empty name is the default, or the first that supports the method."""

    def __init__(self) -> None:
        self.default = FakeModel("default", manifest(embedding=None))
        self.known = {
            model.name: model
            for model in (self.default, FakeModel("full", manifest()), FakeModel("plain", manifest(images=False)))
        }

    def find(self, name: str, supports: Callable[[Manifest], bool]) -> FakeModel:
        if name:
            if name not in self.known:
                raise ModelNotFound(f"model {name!r} is not served here", model=name)
            return self.known[name]
        return next((m for m in self.known.values() if supports(m.manifest)), self.default)


class FakeDecoder:
    """A file is three digits, its pixel; any other bytes are unreadable."""

    async def decode(self, data: bytes, steps: ImagePreprocessing, deadline: Deadline) -> Any:
        if len(data) != 3:
            raise ImageUnreadable("the image is damaged", field="image")
        if data == b"BUG":
            raise ZeroDivisionError
        return np.frombuffer(data, np.uint8).reshape(1, 1, 3) - ord("0")


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
def servicer(models: FakeModels) -> VisionServicer:
    decoder = FakeDecoder()
    return VisionServicer(cast(Any, models), cast(Any, decoder), instance="vision-7", stream_window=WINDOW)


def call() -> Call:
    return Call("/trivium.vision.v1.VisionService/Test", Deadline())


async def stream(*requests: ClassifyStreamRequest) -> AsyncIterator[ClassifyStreamRequest]:
    for request in requests:
        yield request


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_every_method_of_the_service_is_served(servicer: VisionServicer) -> None:
    assert len(methods_of(servicer)) == len(VisionServicer.service.methods) == 3


async def test_classify_ranks_classes_and_says_where_the_time_went(servicer: VisionServicer) -> None:
    this = call()
    response = await servicer.classify(ClassifyRequest(image=b"195"), this)
    assert [(found.label, found.index) for found in response.classes] == [("green", 1), ("blue", 2), ("red", 0)]
    assert sum(found.probability for found in response.classes) == pytest.approx(1)
    assert ("trivium-model", "default") in this.trailers
    assert this.stages.keys() == {"decode", "queue", "compute", "encode"}
    assert this.stages["compute"] == 0.5


@pytest.mark.parametrize("top_k", [1, 2, 100])
async def test_top_k_bounds_the_answer(servicer: VisionServicer, top_k: int) -> None:
    response = await servicer.classify(ClassifyRequest(image=b"195", top_k=top_k), call())
    assert len(response.classes) == min(top_k, 3)


@pytest.mark.parametrize("top_k", [0, 101, 2**32 - 1])
async def test_a_top_k_out_of_range_is_refused_before_any_work(servicer: VisionServicer, top_k: int) -> None:
    with pytest.raises(InvalidField) as caught:
        await servicer.classify(ClassifyRequest(image=b"no image", top_k=top_k), call())
    assert caught.value.metadata == {"field": "top_k", "limit": "[1, 100]", "value": str(top_k)}


async def test_an_image_that_cannot_be_read_is_the_callers_error_in_the_stage_decode(servicer: VisionServicer) -> None:
    this = call()
    with pytest.raises(ImageUnreadable):
        await servicer.classify(ClassifyRequest(image=b"no image"), this)
    assert this.stage == "decode"


async def test_a_failure_of_the_batcher_happened_in_the_stage_queue(
    servicer: VisionServicer, models: FakeModels
) -> None:
    models.default.batcher.error = Overloaded("full")
    this = call()
    with pytest.raises(Overloaded):
        await servicer.classify(ClassifyRequest(image=b"195"), this)
    assert this.stage == "queue"


async def test_an_unknown_model_is_not_found(servicer: VisionServicer) -> None:
    with pytest.raises(ModelNotFound):
        await servicer.classify(ClassifyRequest(model="nobody", image=b"195"), call())


@pytest.mark.parametrize("method", ["classify", "embed"])
async def test_a_model_of_tensors_answers_no_typed_method(servicer: VisionServicer, method: str) -> None:
    with pytest.raises(UnsupportedByModel) as caught:
        await getattr(servicer, method)(vision_pb2.EmbedRequest(model="plain", image=b"195"), call())
    assert caught.value.metadata == {"model": "plain", "task": "tensors"}


async def test_embed_gives_the_embedding_of_the_first_model_that_has_one(servicer: VisionServicer) -> None:
    this = call()
    response = await servicer.embed(vision_pb2.EmbedRequest(image=b"195"), this)
    assert list(response.values) == [1, 9, 5]
    assert ("trivium-model", "full") in this.trailers


async def test_embed_of_a_model_without_embedding_is_unsupported(servicer: VisionServicer) -> None:
    with pytest.raises(UnsupportedByModel, match="no embedding"):
        await servicer.embed(vision_pb2.EmbedRequest(model="default", image=b"195"), call())


async def test_a_stream_answers_each_image_or_its_own_error(servicer: VisionServicer) -> None:
    requests = [
        ClassifyStreamRequest(id="a", image=b"195", top_k=1),
        ClassifyStreamRequest(id="b", image=b"no image"),
        ClassifyStreamRequest(id="c", image=b"195", top_k=0),
        ClassifyStreamRequest(id="x" * 257, image=b"195"),
        ClassifyStreamRequest(id="ä" * 129, image=b"195"),
        ClassifyStreamRequest(id="d", image=b"195", model="full"),
        ClassifyStreamRequest(id="e", image=b"BUG"),
        ClassifyStreamRequest(id="f" * 256, image=b"911"),
    ]
    this = call()
    answers = {answer.id: answer async for answer in servicer.classify_stream(stream(*requests), this)}
    assert answers.keys() == {request.id for request in requests}
    assert [found.label for found in answers["a"].result.classes] == ["green"]
    assert [found.label for found in answers["f" * 256].result.classes] == ["red", "green", "blue"]
    errors = {name: answer.error for name, answer in answers.items() if answer.HasField("error")}
    assert {name: reason(error) for name, error in errors.items()} == {
        "b": ("IMAGE_UNREADABLE", "image", "decode"),
        "c": ("INVALID_FIELD", "top_k", "admission"),
        "x" * 257: ("INVALID_FIELD", "id", "admission"),
        "ä" * 129: ("INVALID_FIELD", "id", "admission"),
        "d": ("INVALID_FIELD", "model", "admission"),
        "e": ("INTERNAL", "", "decode"),
    }
    assert this.fields == {"model": "default:1", "items": 8, "failed_items": 6}


def reason(status: status_pb2.Status) -> tuple[str, str, str]:
    """Reason, field and stage of an item's error, which must name the instance as well."""
    info = error_info(status)
    assert info is not None
    assert info.metadata["instance"] == "vision-7"
    field, violation = info.metadata.get("field", ""), BadRequest()
    if field:
        assert status.code == code_pb2.INVALID_ARGUMENT
        assert any(detail.Unpack(violation) for detail in status.details)
        assert violation.field_violations[0].field == field
    return info.reason, field, info.metadata["stage"]


async def test_a_bug_shows_its_text_to_nobody_but_the_log(servicer: VisionServicer) -> None:
    answers = [a async for a in servicer.classify_stream(stream(ClassifyStreamRequest(image=b"BUG")), call())]
    assert answers[0].error.code == code_pb2.INTERNAL
    assert "Division" not in answers[0].error.message


async def test_a_streams_trailers_add_up_what_its_images_cost(servicer: VisionServicer) -> None:
    this = call()
    requests = stream(*[ClassifyStreamRequest(image=b"195")] * 3, ClassifyStreamRequest(image=b"?"))
    assert len([answer async for answer in servicer.classify_stream(requests, this)]) == 4
    assert this.trailers == [("trivium-model", "default"), ("queue", "0.75"), ("batch", "3")]
    assert this.stages["compute"] == pytest.approx(1.5)


async def test_the_first_message_names_the_model_of_the_stream(servicer: VisionServicer) -> None:
    with pytest.raises(ModelNotFound):
        await anext(servicer.classify_stream(stream(ClassifyStreamRequest(model="nobody", image=b"195")), call()))
    this = call()
    requests = stream(
        ClassifyStreamRequest(id="1", model="full", image=b"195"),
        ClassifyStreamRequest(id="2", image=b"195"),
        ClassifyStreamRequest(id="3", model="full", image=b"195"),
    )
    answers = [answer async for answer in servicer.classify_stream(requests, this)]
    assert all(answer.HasField("result") for answer in answers)
    assert ("trivium-model", "full") in this.trailers


async def test_an_empty_stream_has_an_empty_answer(servicer: VisionServicer) -> None:
    assert [answer async for answer in servicer.classify_stream(stream(), call())] == []


async def test_no_more_images_than_the_window_are_worked_on(servicer: VisionServicer, models: FakeModels) -> None:
    models.default.batcher.open.clear()
    requests = stream(*[ClassifyStreamRequest(image=b"195")] * 20)
    answers = servicer.classify_stream(requests, call())
    first = asyncio.ensure_future(anext(answers))
    await settled()
    assert models.default.batcher.running == WINDOW
    models.default.batcher.open.set()
    await first
    assert len([answer async for answer in answers]) == 19
    assert models.default.batcher.most == WINDOW


async def test_a_caller_that_leaves_cancels_every_image_at_hand(servicer: VisionServicer, models: FakeModels) -> None:
    models.default.batcher.open.clear()
    requests = stream(*[ClassifyStreamRequest(image=b"195")] * 20)

    async def consume() -> None:
        async with contextlib.aclosing(cast(Any, servicer.classify_stream(requests, call()))) as answers:
            await anext(answers)

    task = asyncio.create_task(consume())
    await settled()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert (models.default.batcher.running, models.default.batcher.cancelled) == (0, WINDOW)
